"""Processes that decode, and how many images and pixels are decoded at once.

Knows limits and who waits; what is done to an image is `kontext.images.decode`'s business. No image
waits for another before the limits below are reached: the system shares the cores among the
processes, and each may take only so much of one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore, Condition, Lock

from PIL import Image

from kontext.images.decode_process import MOST_SECONDS
from kontext.images.decoder import Decoder

MOST_PICTURES = 100
"""That one process decodes, so that what a decoder leaks or remembers is bounded."""

MOST_AT_ONCE = 12
"""Processes. Eight jobs at once wait for an image; the rest is for those of cancelled jobs."""

SMALL_PIXELS = 4_000_000
"""Up to which an image is decoded at once, whatever else is being decoded."""

MOST_PIXELS = 80_000_000
"""That larger images, taken together, have while they are decoded; twice the largest image.
A decoder was seen to take up to 22 bytes for each: 1.8 GB for them, and 1.1 GB for small ones."""


class DecodePool:
    """Processes that decode, each one image at a time; safe to use from several threads.

    One is kept for the next image. An image that comes while it is busy, were it with that of
    a job long cancelled, gets one of its own instead of waiting.

    Args:
        most: Processes at once; beyond that, images wait.
    """

    def __init__(self, most: int = MOST_AT_ONCE) -> None:
        self._idle: list[Decoder] = []
        self._lock = Lock()
        self._slots = BoundedSemaphore(most)
        self._room = Room(MOST_PIXELS)

    def decode(
        self, content: bytes, pixels: int | None = None, seconds: float = MOST_SECONDS
    ) -> Image.Image:
        """Do what `kontext.images.decode.decode` does, in a process killed after `seconds`.

        Raises:
            DecodeError: One sentence that names the rule and the value.
        """
        with self._slots:
            decoder = self._take()
            try:
                size = decoder.open(content, pixels, seconds)
                with self._room.taken(size[0] * size[1]):
                    return decoder.decode_pixels(size, seconds)
            finally:
                self._give_back(decoder)

    def close(self) -> None:
        """End the process that waits; the next image starts another."""
        with self._lock:
            ended, self._idle = self._idle, []
        for decoder in ended:
            decoder.end()

    def _take(self) -> Decoder:
        with self._lock:
            decoder = self._idle.pop() if self._idle else None
        if decoder is None or not decoder.usable:  # the system may have killed it meanwhile
            return Decoder()
        return decoder

    def _give_back(self, decoder: Decoder) -> None:
        with self._lock:
            keep = decoder.usable and decoder.images < MOST_PICTURES and not self._idle
            if keep:
                self._idle.append(decoder)
        if not keep:
            decoder.end()


class Room:
    """How many pixels of large images may be decoded at once.

    Args:
        pixels: No fewer than the largest image has.
    """

    def __init__(self, pixels: int) -> None:
        self._left = pixels
        self._changed = Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Take room for `pixels` during the block, once there is some; small images need none."""
        taken = pixels if pixels > SMALL_PIXELS else 0
        with self._changed:
            self._changed.wait_for(lambda: self._left >= taken)
            self._left -= taken
        try:
            yield
        finally:
            with self._changed:
                self._left += taken
                self._changed.notify_all()


decode_in_process = DecodePool().decode
"""Do the same as `kontext.images.decode.decode` in a process; these live as long as the worker."""
