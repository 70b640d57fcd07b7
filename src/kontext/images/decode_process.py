"""A program that decodes one image after another, so that it can be killed.

    python -m kontext.images.decode_process

Metadata that takes minutes to read and a native decoder that crashes are why it exists. It knows
the messages on its pipes and how much of a core an image may take; `kontext.images.decode_pool`
starts and ends it. It tells the size of each image before it decodes the pixels, and waits to be
told to go on, so that its parent can bound how many pixels are decoded at once.

    request    REQUEST, the file
    reply      REPLY: the size, or a refusal and the end of this image
    GO
    reply      REPLY: the size and the RGB pixels, or a refusal
"""

import signal
import sys
import traceback
from contextlib import suppress
from struct import Struct

from kontext.contract.size import MEGAPIXEL
from kontext.errors import DecodeError
from kontext.images.decode import decode_pixels, open_image

REQUEST = Struct(">IQ")
"""Pixels needed or 0, length of the file that follows."""
REPLY = Struct(">II")
"""Width and height, or 0 and the length of the refusal that follows."""
GO = b"\1"

MOST_SECONDS = 15
"""For one image, whatever else the machine does; the largest that the caps admit take about 2."""

OPENING_SECONDS = 0.5
"""Of one core, to read header and metadata, which takes milliseconds."""

_PIXEL_SECONDS, _SECONDS_PER_MEGAPIXEL = 0.5, 0.25
"""Of one core, to decode pixels; formats that were measured take 0.01 to 0.04 for a megapixel."""


def pixel_seconds(width: int, height: int) -> float:
    """Return the seconds of one core that pixels of that size may take."""
    return _PIXEL_SECONDS + _SECONDS_PER_MEGAPIXEL * width * height / MEGAPIXEL


def main() -> None:
    """Answer requests until there are no more; a parent that was killed asks no more."""
    requests = sys.stdin.buffer
    while head := requests.read(REQUEST.size):
        pixels, length = REQUEST.unpack(head)
        content = requests.read(length)
        try:
            _work(content, pixels or None)
        except DecodeError as error:
            _explain(error)
            sentence = str(error).encode()
            _reply(REPLY.pack(0, len(sentence)), sentence)


def _work(content: bytes, pixels: int | None) -> None:
    _may_take(OPENING_SECONDS)
    image = open_image(content, pixels)
    _reply(REPLY.pack(*image.size))
    if sys.stdin.buffer.read(len(GO)) == GO:
        _may_take(pixel_seconds(*image.size))
        decoded = decode_pixels(image)
        _reply(REPLY.pack(*decoded.size), decoded.tobytes())


def _may_take(seconds: float) -> None:
    """Let the system end this process after so many seconds of a core.

    And after twice `MOST_SECONDS` of waiting, when the parent that should do so was killed.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 2 * MOST_SECONDS)


def _reply(*parts: bytes) -> None:
    for timer in signal.ITIMER_PROF, signal.ITIMER_REAL:
        signal.setitimer(timer, 0)
    for part in parts:
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


def _explain(error: DecodeError) -> None:
    """Write the cause for the log; what does not fit into the pipe is dropped."""
    with suppress(OSError):
        traceback.print_exception(error)
        sys.stderr.flush()


if __name__ == "__main__":
    main()
