"""One process that decodes, and what becomes of it.

Knows pipes, deadlines and the sentences for a process that ends amid an image; the program that it
runs is `kontext.images.decode_process`, and `kontext.images.decode_pool` says when to start one.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Timer
from typing import IO, cast

from PIL import Image

from kontext.errors import DecodeError
from kontext.images import decode_process
from kontext.images.decode_process import GO, OPENING_SECONDS, REPLY, REQUEST, pixel_seconds


class Decoder:
    """One process; it ends when its standard input does, and so with us, however we end.

    Attributes:
        images: How many it has been given.
    """

    def __init__(self) -> None:
        self.images = 0
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
        """Whether it lives and waits for an image."""
        return self._in_step and self._process.poll() is None

    def open(self, content: bytes, pixels: int | None, seconds: float) -> tuple[int, int]:
        """Send a file; return the width and height that it will have when it has been decoded.

        Args:
            content: The file.
            pixels: As `kontext.images.decode.decode` has it.
            seconds: After which the process is killed.

        Raises:
            DecodeError: One sentence that names the rule and the value.
        """
        self.images += 1
        self._said()  # of the image before
        too_slow = f"its header and metadata take more than {OPENING_SECONDS:g} s to read"
        with self._exchange(seconds, too_slow):
            self._requests.write(REQUEST.pack(pixels or 0, len(content)))
            self._requests.write(content)
            self._requests.flush()
            return self._size()

    def decode_pixels(self, size: tuple[int, int], seconds: float) -> Image.Image:
        """Return the image that is open, of that size.

        Raises:
            DecodeError: One sentence that names the rule and the value.
        """
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
            deadline.join()  # or it might kill at the next image

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
        """Kill it."""
        self._process.kill()
        with suppress(OSError):  # what it did not read can no longer be written
            self._process.communicate()
        os.close(self._log)
