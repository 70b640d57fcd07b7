"""Which addresses the worker may dial for a caller: those of images and of a job's `s3Config`.

Knows policies, no transfers; `ssrfguard` resolves, checks and pins.
"""

from ipaddress import ip_network
from typing import Any

from ssrfguard import (
    DEFAULT_DENIED,
    AddressTable,
    Block,
    BlockedAddressError,
    Policy,
    Reach,
    Resolver,
)

from kontext.settings import Settings

_AZURE = Block(
    ip_network("168.63.129.16/32"),
    "Azure's platform services",
    "no RFC",
    Reach.DENIED,
    "A public address, but answered by the host: names, health, the virtual machine's agent.",
)
_DENIED = AddressTable((*DEFAULT_DENIED.blocks, _AZURE))


def address_policy(settings: Settings) -> Policy:
    """Return the policy of every address that a caller names: images and `s3Config`."""
    return Policy(
        denied_networks=_DENIED,
        allowed_networks=settings.fetch_allowed_networks,
        allowed_ports=settings.fetch_allowed_ports,
        max_redirects=5,
    )


def unknown_as_private(resolver: Resolver) -> Resolver:
    """Refuse unknown names as private ones are, so that no caller can tell which exist."""

    def resolve(host: str, *rest: Any) -> Any:  # noqa: ANN401 - as `getaddrinfo` has it
        try:
            return resolver(host, *rest)
        except (OSError, UnicodeError) as error:
            raise BlockedAddressError(host, "does not resolve") from error

    return resolve
