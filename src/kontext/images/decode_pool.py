"""Decodes images in child processes, and bounds how many images and pixels are decoded at once.

Knows the limits and which image waits; does not know how an image is decoded. Below the limits no
image waits for another: the system shares the cores among the processes, and each process has
limited CPU time.

The pool is our own because pebble, the library that comes nearest, connects all its processes by
one pipe and lock: a process that was killed or stopped as it returned its image blocked all others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore, Condition, Lock

from PIL import Image

from kontext.contract.size import MEGAPIXEL
from kontext.images.decoder_process import DecoderProcess
from kontext.images.decoder_protocol import DECODE_TIMEOUT_SECONDS
from kontext.images.input_limits import MAX_MEGAPIXELS

MAX_PROCESS_IMAGES = 100
"""Bounds what a decoder can leak or keep from one image to the next."""

MAX_PROCESSES = 12
"""Up to eight jobs wait for an image at once; the rest decode for jobs that were cancelled."""

SMALL_IMAGE_PIXELS = 4_000_000
"""An image of up to so many pixels never waits for larger ones."""

MAX_PIXELS_AT_ONCE = 2 * MAX_MEGAPIXELS * MEGAPIXEL
"""Total pixels of the larger images that are decoded at once: two of the largest. A decoder was
seen to take up to 22 bytes a pixel: 1.8 GB for these, and 1.1 GB for small images."""


class DecodePool:
    """Child processes that decode one image each at a time. Thread-safe.

    One idle process is kept for the next image. While it is busy, even for a job that was cancelled
    long ago, a new image gets a new process.

    Args:
        max_processes: The number of processes at once; further images wait.
    """

    def __init__(self, max_processes: int = MAX_PROCESSES) -> None:
        self._idle: list[DecoderProcess] = []
        self._lock = Lock()
        self._slots = BoundedSemaphore(max_processes)
        self._budget = PixelBudget(MAX_PIXELS_AT_ONCE)

    def decode(
        self, content: bytes, pixels: int | None = None, seconds: float = DECODE_TIMEOUT_SECONDS
    ) -> Image.Image:
        """Do what `kontext.images.decode.decode` does, in a process that is killed after `seconds`.

        Raises:
            DecodeError: One sentence that names the rule and the value.
        """
        with self._slots:
            process = self._take()
            try:
                size = process.open(content, pixels, seconds)
                with self._budget.reserve(size[0] * size[1]):
                    return process.decode_pixels(size, seconds)
            finally:
                self._give_back(process)

    def close(self) -> None:
        """Kill the idle process; the next image starts another."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            process.kill()

    def _take(self) -> DecoderProcess:
        with self._lock:
            process = self._idle.pop() if self._idle else None
        if process is None or not process.is_usable:  # the system may have killed it while idle
            return DecoderProcess()
        return process

    def _give_back(self, process: DecoderProcess) -> None:
        with self._lock:
            is_fresh = process.is_usable and process.images < MAX_PROCESS_IMAGES
            keep = is_fresh and not self._idle
            if keep:
                self._idle.append(process)
        if not keep:
            process.kill()


class PixelBudget:
    """Bounds how many pixels of large images are decoded at once. Thread-safe.

    Args:
        pixels: The total, at least that of the largest image.
    """

    def __init__(self, pixels: int) -> None:
        self._left = pixels
        self._changed = Condition()

    @contextmanager
    def reserve(self, pixels: int) -> Iterator[None]:
        """Wait until `pixels` are left and hold them during the block; small images need none."""
        reserved = pixels if pixels > SMALL_IMAGE_PIXELS else 0
        with self._changed:
            self._changed.wait_for(lambda: self._left >= reserved)
            self._left -= reserved
        try:
            yield
        finally:
            with self._changed:
                self._left += reserved
                self._changed.notify_all()


decode_in_process = DecodePool().decode
"""Decodes in the pool that the whole worker shares."""
