"""The types of settings that are lists, separated by commas in the environment."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, TypeVar

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

T = TypeVar("T")


def _split(value: object) -> object:
    """Split a string at its commas; return anything else unchanged, for pydantic to check."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _parse_networks(value: object) -> object:
    parts = _split(value)
    return [ip_network(part) for part in parts] if isinstance(parts, list) else parts


CommaSeparated = Annotated[T, NoDecode, BeforeValidator(_split)]
"""A collection whose members pydantic reads from strings."""

Networks = Annotated[
    tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_parse_networks)
]
"""Networks such as `10.0.0.0/8`; an address with bits outside its prefix is refused."""
