"""Decides which addresses the worker may connect to for a caller: for images and `s3Config`.

Knows networks and ports; does not know transfers. `ssrfguard` resolves, checks and pins addresses.
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
    """Return the policy for every URL that a caller names: images and `s3Config`."""
    return Policy(
        denied_networks=_DENIED,
        allowed_networks=settings.fetch_allowed_networks,
        allowed_ports=settings.fetch_allowed_ports,
        max_redirects=5,
    )


def refuse_unknown_names(resolver: Resolver) -> Resolver:
    """Wrap `resolver` so that unknown names are refused like private ones.

    Otherwise a caller could find out which private names exist.
    """

    def resolve(host: str, *rest: Any) -> Any:  # noqa: ANN401 - `getaddrinfo`'s arguments
        try:
            return resolver(host, *rest)
        except (OSError, UnicodeError) as error:
            raise BlockedAddressError(host, "does not resolve") from error

    return resolve
