"""What can go wrong, and what a caller may read about it.

`str(error)` is the public sentence: it goes to the caller as it stands, so it names the field or
host, the rule and the value, and never a path, an address, a traceback or a secret. The private
cause travels as `__cause__` and reaches only the log.

    KontextError
    ├── InvalidRequest     the `input` breaks the documented contract
    ├── SourceError        the input image cannot be had
    │   ├── FetchError       its URL may not be, or could not be, fetched
    │   └── DecodeError      its bytes are not an image that we accept
    ├── UnsafeImage      the safety checker refused the result
    ├── OutOfMemory        the edit does not fit into the GPU's memory
    │   └── MemoryNotFreed   and part of that memory did not come back
    ├── GpuFault           the GPU, or this process's context on it, is lost
    ├── StorageError       the result could not be stored
    ├── WorkerEnding       the worker ends before the job is done
    ├── ProcessExit        something inside a job wanted to end the process
    ├── Cancelled          the caller cancelled the job; nobody reads its sentence
    └── BootError          the worker must not start; its sentence is for the deployer: it may name
        │                  paths and buckets, and a caller reads `boot_failed` in its place
        └── SettingsError    an environment variable is missing or wrong
"""

from typing import ClassVar

INTERNAL = "The worker hit an internal error; the job was not charged and can be sent again."
"""The one sentence for every exception outside the tree."""


class KontextError(Exception):
    """Root of the tree.

    Attributes:
        example: A sentence of this kind, for the table in docs/errors.md.
        remedy: What the caller, or for a `BootError` the deployer, can do about it.
        refresh_worker: Whether Runpod should replace the worker after this job.
    """

    example: ClassVar[str] = INTERNAL
    remedy: ClassVar[str] = "Send the job again; if it repeats, its id finds the cause in the log."
    refresh_worker: ClassVar[bool] = False


class InvalidRequest(KontextError):
    """The `input` breaks the documented contract; all violations in one sentence."""

    example = "num_inference_steps must be between 1 and 50, got 80"
    remedy = "Correct the named field."


class SourceError(KontextError):
    """The input image cannot be had."""


class FetchError(SourceError):
    """The image's URL may not be, or could not be, fetched."""

    example = "Invalid image URL: example.com answered 404"
    remedy = "Give a public http(s) URL on port 80 or 443, or a data: URL."


class DecodeError(SourceError):
    """The fetched bytes are not an image that we accept."""

    example = "Invalid image: not a JPEG, PNG, WebP, AVIF or GIF image"
    remedy = "Send an image of an accepted format within the limits."


class UnsafeImage(KontextError):
    """The safety checker refused the result; it was not stored and costs nothing."""

    example = "The safety checker refused the edited image; it was not stored and costs nothing"
    remedy = "Change the prompt or the image, or send another seed."


class OutOfMemory(KontextError):
    """The edit does not fit into the GPU's memory; the memory is free again."""

    example = "The edit ran out of GPU memory at 2368*2368; ask for a smaller size"
    remedy = "Ask for a smaller size, or deploy on a larger GPU."


class MemoryNotFreed(OutOfMemory):
    """The edit does not fit, and part of the memory did not come back afterwards."""

    refresh_worker = True


class GpuFault(KontextError):
    """The GPU, or this process's context on it, is lost; only another process can go on."""

    example = "The GPU failed and its worker is being replaced; send the job again"
    remedy = "Send the job again."
    refresh_worker = True


class StorageError(KontextError):
    """The result could not be stored."""

    example = "The edited image could not be stored: the bucket refused the upload"
    remedy = "Send the job again; for an own s3Config, check bucket, keys and endpoint."


class WorkerEnding(KontextError):
    """The worker ends before the job is done: it was told to, or an edit hangs on its GPU."""

    example = "The worker had to end before the job was done; send the job again"
    remedy = "Send the job again."
    refresh_worker = True


class ProcessExit(KontextError):
    """Something inside a job wanted to end the process; the worker then ends in order."""

    refresh_worker = True


class Cancelled(KontextError):
    """The caller cancelled the job while it was on the GPU."""


def boot_failed(check: str) -> str:
    """Return what a caller may read of a boot that failed: which check, not why."""
    return (
        f'The worker could not start: its check "{check}" failed; '
        "the job was not charged, and the worker's log tells why"
    )


class BootError(KontextError):
    """The worker must not start."""

    example = boot_failed("bucket")
    remedy = "Send the job again; if it repeats, the endpoint's owner finds the cause in the log."


class SettingsError(BootError):
    """An environment variable is missing or wrong."""
