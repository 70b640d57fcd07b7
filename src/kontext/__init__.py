"""Self-hosted FLUX.1 Kontext [dev] picture editing behind Runpod's documented contract."""

from importlib.metadata import version

__version__ = version("kontext")
