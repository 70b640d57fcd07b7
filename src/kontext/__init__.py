"""Self-hosted FLUX.1 Kontext [dev] image editing behind Runpod's documented contract.

Each package says in its docstring what it may import. The modules beside them:

    errors            imports: nothing
    logs              imports: errors
    settings          imports: errors, contract
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
except PackageNotFoundError:  # run from a checkout that was not installed
    __version__ = "unknown"
