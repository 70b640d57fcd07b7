"""What can go wrong, and what a caller may read about it.

`str(error)` is the public sentence: the caller reads it unchanged. It names the field or host, the
rule and the value, and never a path, an address, a traceback or a secret. The private cause is
`__cause__`, which only the log shows.

    KontextError
    ├── InvalidRequest     the `input` breaks the documented contract
    ├── SourceError        the input image is not available
    │   ├── FetchError       its URL is not allowed, or could not be fetched
    │   └── DecodeError      its bytes are not an image that we accept
    ├── UnsafeImage        the safety checker refused the result
    ├── OutOfMemory        the edit does not fit into the GPU's memory
    │   └── MemoryNotFreed   and part of that memory did not come back
    ├── GpuFault           the GPU, or this process's context on it, is lost
    ├── StorageError       the result could not be stored
    ├── WorkerShutdown     the worker shuts down before the job is done
    ├── UnexpectedExit     code inside a job tried to end the process
    ├── Cancelled          the caller cancelled the job and reads no answer
    └── BootError          the worker must not start; its sentence is for the deployer and may name
        │                  paths and buckets, so a caller reads `boot_failure_sentence` instead
        └── SettingsError    an environment variable is missing or wrong
"""

from typing import ClassVar

INTERNAL = "The worker hit an internal error; the job was not charged and can be sent again."
"""The one sentence for every exception outside the tree."""


class KontextError(Exception):
    """Root of the tree.

    Args:
        sentence: The public sentence, if it is not the one of the class.

    Attributes:
        sentence: The public sentence of an error that is raised without one.
        example: A public sentence of this kind, for the table in docs/errors.md.
        remedy: What the caller, or for a `BootError` the deployer, can do about it.
        refresh_worker: Whether Runpod should replace the worker after this job.
    """

    sentence: ClassVar[str] = INTERNAL
    example: ClassVar[str] = INTERNAL
    remedy: ClassVar[str] = "Send the job again; if it repeats, its id finds the cause in the log."
    refresh_worker: ClassVar[bool] = False

    def __init__(self, sentence: str | None = None) -> None:
        super().__init__(self.sentence if sentence is None else sentence)


class InvalidRequest(KontextError):
    """The `input` breaks the documented contract; all violations in one sentence."""

    example = "num_inference_steps must be between 1 and 50, got 80"
    remedy = "Correct the named field."


class SourceError(KontextError):
    """The input image is not available."""


class FetchError(SourceError):
    """The image's URL is not allowed, or could not be fetched."""

    example = "Invalid image URL: example.com answered 404"
    remedy = "Give a public http(s) URL on port 80 or 443, or a data: URL."


class DecodeError(SourceError):
    """The fetched bytes are not an image that we accept."""

    example = "Invalid image: not a JPEG, PNG, WebP, AVIF or GIF image"
    remedy = "Send an image of an accepted format within the limits."


class UnsafeImage(KontextError):
    """The safety checker refused the result; it was not stored and costs nothing."""

    sentence = example = (
        "The safety checker refused the edited image; it was not stored and costs nothing"
    )
    remedy = "Change the prompt or the image, or send another seed."


class OutOfMemory(KontextError):
    """The edit does not fit into the GPU's memory; the memory is free again."""

    example = "The edit ran out of GPU memory at 2368*2368; ask for a smaller size"
    remedy = "Ask for a smaller size, or deploy on a larger GPU."


class MemoryNotFreed(OutOfMemory):
    """The edit does not fit, and part of the memory did not come back afterwards."""

    refresh_worker = True


class GpuFault(KontextError):
    """The GPU, or this process's context on it, is lost; only another process can continue."""

    sentence = example = "The GPU failed and its worker is being replaced; send the job again"
    remedy = "Send the job again."
    refresh_worker = True


class StorageError(KontextError):
    """The result could not be stored."""

    example = "The edited image could not be stored: the bucket refused the upload"
    remedy = "Send the job again; for an own s3Config, check bucket, keys and endpoint."


class WorkerShutdown(KontextError):
    """The worker shuts down before the job is done, on SIGTERM or because an edit hangs."""

    sentence = example = "The worker had to end before the job was done; send the job again"
    remedy = "Send the job again."
    refresh_worker = True


class UnexpectedExit(KontextError):
    """Code inside a job tried to end the process; the worker shuts down in order instead."""

    refresh_worker = True


class Cancelled(KontextError):
    """The caller cancelled the job while it was on the GPU."""


def boot_failure_sentence(check: str) -> str:
    """Return the public sentence of a boot that failed: it names the check, and no cause.

    Args:
        check: The name of the check that failed, such as `bucket`.
    """
    return (
        f'The worker could not start: its check "{check}" failed; '
        "the job was not charged, and the worker's log tells why"
    )


class BootError(KontextError):
    """The worker must not start."""

    example = boot_failure_sentence("bucket")
    remedy = "Send the job again; if it repeats, the endpoint's owner finds the cause in the log."


class SettingsError(BootError):
    """An environment variable is missing or wrong."""
