"""The program of a decoder process: it decodes one image after another, as its parent asks.

    python -m kontext.images.decoder_program

Images are decoded in a child process because metadata can take minutes to read and native decoders
can crash. Knows how to answer the messages of `kontext.images.decoder_protocol` and to limit its
own CPU time; `kontext.images.decoder_process` starts and kills it.
"""

import signal
import sys
import traceback
from contextlib import suppress

from kontext.errors import DecodeError
from kontext.images.decode import decode_pixels, open_image
from kontext.images.decoder_protocol import (
    CONTINUE,
    DECODE_TIMEOUT_SECONDS,
    HEADER_CPU_SECONDS,
    REPLY,
    REQUEST,
    pixel_cpu_seconds,
)


def main() -> None:
    """Answer requests until standard input is closed, as it is when the parent ends."""
    requests = sys.stdin.buffer
    while head := requests.read(REQUEST.size):
        pixels, length = REQUEST.unpack(head)
        content = requests.read(length)
        try:
            _decode(content, pixels or None)
        except DecodeError as error:
            _log_cause(error)
            sentence = str(error).encode()
            _reply(REPLY.pack(0, len(sentence)), sentence)


def _decode(content: bytes, pixels: int | None) -> None:
    _limit_time(HEADER_CPU_SECONDS)
    image = open_image(content, pixels)
    _reply(REPLY.pack(*image.size))
    if sys.stdin.buffer.read(len(CONTINUE)) == CONTINUE:
        _limit_time(pixel_cpu_seconds(*image.size))
        decoded = decode_pixels(image)
        _reply(REPLY.pack(*decoded.size), decoded.tobytes())


def _limit_time(cpu_seconds: float) -> None:
    """Let the system kill this process by a signal once it has used that much CPU time.

    The second timer kills it too when its parent, which would do so earlier, was killed.
    """
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, 2 * DECODE_TIMEOUT_SECONDS)


def _reply(*parts: bytes) -> None:
    for timer in signal.ITIMER_PROF, signal.ITIMER_REAL:
        signal.setitimer(timer, 0)
    for part in parts:
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


def _log_cause(error: DecodeError) -> None:
    """Write the traceback for the worker's log; what does not fit into the pipe is dropped."""
    with suppress(OSError):
        traceback.print_exception(error)
        sys.stderr.flush()


if __name__ == "__main__":
    main()
