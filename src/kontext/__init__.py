"""Self-hosted FLUX.1 Kontext [dev] image editing behind Runpod's documented contract.

Each package says in its docstring what it may import. These are the modules beside them:

    errors            imports: nothing
    logs              imports: errors
    comma_separated   imports: nothing
    settings          imports: errors, contract, comma_separated
    address_policy    imports: settings
    threads           imports: errors
    child_process     imports: errors
    worker            imports: errors, logs, contract, settings, address_policy, threads, images,
                               inference, storage, jobs
    __main__          imports: nothing
    demo              imports: address_policy, settings, images, storage.embedded_bucket
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("kontext")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "unknown"
