"""The addresses that the worker may connect to for a caller."""

import socket
from ipaddress import ip_network
from typing import Any

import pytest
from ssrfguard import BlockedAddressError

from kontext.address_policy import address_policy, refuse_unknown_names
from kontext.settings import Settings


@pytest.mark.parametrize("address", ["168.63.129.16", "169.254.169.254", "127.0.0.1", "10.0.0.1"])
def test_hosts_of_the_platform_and_private_networks_are_denied(address: str) -> None:
    """Azure answers on a public address, so that it must be named."""
    denied = address_policy(Settings()).denied_networks

    assert denied.classify(address).blocked


def test_the_settings_name_further_networks_and_ports() -> None:
    """A deployer may allow private networks, for development."""
    policy = address_policy(
        Settings(fetch_allowed_networks=(ip_network("10.0.0.0/8"),), fetch_allowed_ports={8080})
    )

    assert policy.allowed_networks == (ip_network("10.0.0.0/8"),)
    assert policy.allowed_ports == {8080}


@pytest.mark.parametrize("error", [socket.gaierror("unknown"), UnicodeError("too long")])
def test_an_unknown_name_is_refused_like_a_private_one(error: Exception) -> None:
    """A caller cannot tell which private names exist."""

    def resolver(*_: Any) -> Any:
        raise error

    with pytest.raises(BlockedAddressError):
        refuse_unknown_names(resolver)("intranet.example", 80)
