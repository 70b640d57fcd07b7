"""Processes that decode, and how many pictures and pixels are decoded at once.

Knows processes, deadlines and pipes; what is done to a picture is `kontext.decode`'s business. No
picture waits for another before the limits below are reached: the system shares the cores among the
processes, and each may take only so much of one.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import BoundedSemaphore, Condition, Event, Lock, Timer
from typing import IO, cast

from PIL import Image

from kontext import decode_process
from kontext.decode_process import GO, MOST_SECONDS, OPENING_SECONDS, REPLY, REQUEST, pixel_seconds
from kontext.errors import DecodeError

MOST_PICTURES = 100
"""That one process decodes, so that what a decoder leaks or remembers is bounded."""

MOST_AT_ONCE = 12
"""Processes. Eight jobs at once wait for a picture; the rest is for those of cancelled jobs."""

SMALL_PIXELS = 4_000_000
"""Up to which a picture is decoded at once, whatever else is being decoded."""

MOST_PIXELS = 80_000_000
"""That larger pictures, taken together, have while they are decoded; twice the largest picture.
A decoder was seen to take up to 22 bytes for each: 1.8 GB for them, and 1.1 GB for small ones."""


class Decoders:
    """Processes that decode, each one picture at a time; safe to use from several threads.

    One is kept for the next picture. A picture that comes while it is busy, were it with that of
    a job long cancelled, gets one of its own instead of waiting.

    Args:
        most: Processes at once; beyond that, pictures wait.
    """

    def __init__(self, most: int = MOST_AT_ONCE) -> None:
        self._idle: list[_Decoder] = []
        self._lock = Lock()
        self._slots = BoundedSemaphore(most)
        self._room = Room(MOST_PIXELS)

    def decode(
        self, content: bytes, pixels: int | None = None, seconds: float = MOST_SECONDS
    ) -> Image.Image:
        """Do the same as `kontext.decode.decode`, in a process that is killed after `seconds`.

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
        """End the process that waits; the next picture starts another."""
        with self._lock:
            ended, self._idle = self._idle, []
        for decoder in ended:
            decoder.end()

    def _take(self) -> "_Decoder":
        with self._lock:
            decoder = self._idle.pop() if self._idle else None
        if decoder is None or not decoder.usable:  # the system may have killed it meanwhile
            return _Decoder()
        return decoder

    def _give_back(self, decoder: "_Decoder") -> None:
        with self._lock:
            keep = decoder.usable and decoder.pictures < MOST_PICTURES and not self._idle
            if keep:
                self._idle.append(decoder)
        if not keep:
            decoder.end()


class Room:
    """How many pixels of large pictures may be decoded at once.

    Args:
        pixels: No fewer than the largest picture has.
    """

    def __init__(self, pixels: int) -> None:
        self._left = pixels
        self._changed = Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Take room for `pixels` during the block, once there is some; small pictures need none."""
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


class _Decoder:
    """One process; it ends when its standard input does, and so with us, however we end."""

    def __init__(self) -> None:
        self.pictures = 0
        self._in_step = True
        self._log, log = os.pipe()
        for end in self._log, log:  # what does not fit is dropped: nobody reads while it decodes
            os.set_blocking(end, False)
        self._process = subprocess.Popen(
            [sys.executable, "-m", decode_process.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        os.close(log)
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._replies = cast("IO[bytes]", self._process.stdout)

    @property
    def usable(self) -> bool:
        return self._in_step and self._process.poll() is None

    def open(self, content: bytes, pixels: int | None, seconds: float) -> tuple[int, int]:
        """Return the size that the picture will have when its pixels have been decoded."""
        self.pictures += 1
        self._said()  # of the picture before
        too_slow = f"its header and metadata take more than {OPENING_SECONDS:g} s to read"
        with self._exchange(seconds, too_slow):
            self._requests.write(REQUEST.pack(pixels or 0, len(content)))
            self._requests.write(content)
            self._requests.flush()
            return self._size()

    def decode_pixels(self, size: tuple[int, int], seconds: float) -> Image.Image:
        """Return the picture that is open."""
        too_slow = f"its pixels take more than {pixel_seconds(*size):.1f} s to decode"
        with self._exchange(seconds, too_slow):
            self._requests.write(GO)
            self._requests.flush()
            width, height = self._size()
            return Image.frombytes("RGB", (width, height), self._read(width * height * 3))

    @contextmanager
    def _exchange(self, seconds: float, too_slow: str) -> Iterator[None]:
        """Kill the process when the block takes too long; turn the end of it into a sentence."""
        self._in_step = False
        late = Event()
        try:
            with self._killed_after(seconds, late):
                yield
        except (OSError, EOFError):
            raise self._crash(seconds, too_slow, late.is_set()) from self._said()
        except DecodeError:  # a whole answer too
            self._in_step = not late.is_set()
            raise
        self._in_step = not late.is_set()

    def _crash(self, seconds: float, too_slow: str, late: bool) -> DecodeError:
        if late:
            return DecodeError(f"Invalid image: it takes more than {seconds:g} seconds to decode")
        with suppress(subprocess.TimeoutExpired):
            if self._process.wait(1) == -signal.SIGPROF:
                return DecodeError(f"Invalid image: {too_slow}")
        return DecodeError("Invalid image: its decoder crashed")

    @contextmanager
    def _killed_after(self, seconds: float, late: Event) -> Iterator[None]:
        def kill() -> None:
            late.set()
            self._process.kill()

        deadline = Timer(seconds, kill)
        deadline.start()
        try:
            yield
        finally:
            deadline.cancel()
            deadline.join()  # or it might kill at the next picture

    def _size(self) -> tuple[int, int]:
        width, height = REPLY.unpack(self._read(REPLY.size))
        if not width:
            raise DecodeError(self._read(height).decode()) from self._said()
        return width, height

    def _read(self, length: int) -> bytes:
        content = self._replies.read(length)
        if len(content) < length:
            raise EOFError
        return content

    def _said(self) -> RuntimeError:
        said = b""
        with suppress(BlockingIOError):
            while part := os.read(self._log, 1 << 16):
                said += part
        return RuntimeError(f"the decoder said: {said.decode(errors='replace')[-2000:]}")

    def end(self) -> None:
        self._process.kill()
        with suppress(OSError):  # what it did not read can no longer be written
            self._process.communicate()
        os.close(self._log)


decode_apart = Decoders().decode
"""Do the same as `kontext.decode.decode` in a process; these live as long as the worker."""
