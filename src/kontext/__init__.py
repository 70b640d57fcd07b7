"""Self-hosted FLUX.1 Kontext [dev] picture editing behind Runpod's documented contract."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("kontext")
except PackageNotFoundError:  # run from a checkout that was not installed
    __version__ = "unknown"
