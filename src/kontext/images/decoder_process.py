"""One child process that decodes images, as the worker sees it.

Knows how to start and kill the process, its pipes and deadlines, and which sentence a caller reads
when it crashes or takes too long. Does not know how images are decoded (that is
`kontext.images.decoder_program`, which the process runs) or how many processes there are
(`kontext.images.decode_pool`).
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
from kontext.images import decoder_program
from kontext.images.decoder_protocol import (
    CONTINUE,
    HEADER_CPU_SECONDS,
    REPLY,
    REQUEST,
    pixel_cpu_seconds,
)


class DecoderProcess:
    """A child process that decodes one image at a time.

    It ends when its standard input is closed, and so when this process ends, even by SIGKILL.

    Attributes:
        images: The number of images that it was given.
    """

    def __init__(self) -> None:
        self.images = 0
        self._is_in_step = True
        self._log, log = os.pipe()
        # Nothing reads the log while an image is decoded: what does not fit must not block.
        for end in self._log, log:
            os.set_blocking(end, False)
        self._process = subprocess.Popen(
            [sys.executable, "-m", decoder_program.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        os.close(log)
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._replies = cast("IO[bytes]", self._process.stdout)

    @property
    def is_usable(self) -> bool:
        """Whether the process is alive and waits for an image."""
        return self._is_in_step and self._process.poll() is None

    def open(self, content: bytes, pixels: int | None, seconds: float) -> tuple[int, int]:
        """Send a file, and return the width and height in pixels that its image will have.

        Args:
            content: The file.
            pixels: The same as for `kontext.images.decode.decode`.
            seconds: The time after which the process is killed.

        Raises:
            DecodeError: One sentence that names the rule and the value.
        """
        self.images += 1
        self._read_log()  # of the image before
        too_slow = f"its header and metadata take more than {HEADER_CPU_SECONDS:g} s to read"
        with self._exchange(seconds, too_slow):
            self._requests.write(REQUEST.pack(pixels or 0, len(content)))
            self._requests.write(content)
            self._requests.flush()
            return self._read_size()

    def decode_pixels(self, size: tuple[int, int], seconds: float) -> Image.Image:
        """Decode the image that `open` has returned the size of.

        Raises:
            DecodeError: One sentence that names the rule and the value.
        """
        too_slow = f"its pixels take more than {pixel_cpu_seconds(*size):.1f} s to decode"
        with self._exchange(seconds, too_slow):
            self._requests.write(CONTINUE)
            self._requests.flush()
            width, height = self._read_size()
            return Image.frombytes("RGB", (width, height), self._read(width * height * 3))

    @contextmanager
    def _exchange(self, seconds: float, too_slow: str) -> Iterator[None]:
        """Kill the process if the block takes too long; raise its death as a `DecodeError`."""
        self._is_in_step = False
        timed_out = Event()
        try:
            with self._killed_after(seconds, timed_out):
                yield
        except (OSError, EOFError):
            raise self._death(seconds, too_slow, timed_out.is_set()) from self._read_log()
        except DecodeError:  # a refusal is a complete answer
            self._is_in_step = not timed_out.is_set()
            raise
        self._is_in_step = not timed_out.is_set()

    def _death(self, seconds: float, too_slow: str, timed_out: bool) -> DecodeError:
        if timed_out:
            return DecodeError(f"Invalid image: it takes more than {seconds:g} seconds to decode")
        with suppress(subprocess.TimeoutExpired):
            if self._process.wait(1) == -signal.SIGPROF:
                return DecodeError(f"Invalid image: {too_slow}")
        return DecodeError("Invalid image: its decoder crashed")

    @contextmanager
    def _killed_after(self, seconds: float, timed_out: Event) -> Iterator[None]:
        def kill() -> None:
            timed_out.set()
            self._process.kill()

        deadline = Timer(seconds, kill)
        deadline.start()
        try:
            yield
        finally:
            deadline.cancel()
            deadline.join()  # or it could kill the process during the next image

    def _read_size(self) -> tuple[int, int]:
        width, height = REPLY.unpack(self._read(REPLY.size))
        if not width:
            raise DecodeError(self._read(height).decode()) from self._read_log()
        return width, height

    def _read(self, length: int) -> bytes:
        content = self._replies.read(length)
        if len(content) < length:
            raise EOFError
        return content

    def _read_log(self) -> RuntimeError:
        """Return what the process has written to its log, as the cause of an error."""
        written = b""
        with suppress(BlockingIOError):
            while part := os.read(self._log, 1 << 16):
                written += part
        return RuntimeError(f"the decoder said: {written.decode(errors='replace')[-2000:]}")

    def kill(self) -> None:
        """Kill the process and close its pipes."""
        self._process.kill()
        with suppress(OSError):  # what the process did not read can no longer be written
            self._process.communicate()
        os.close(self._log)
