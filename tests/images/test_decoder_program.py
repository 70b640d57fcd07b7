"""The messages of a decoder process, byte for byte."""

import subprocess
import sys

from kontext.images.decode import decode
from tests.support.images import encoded, plain

PNG = encoded(plain(64, 48), "PNG")
SIZE = bytes.fromhex("00000040 00000030")


def request(content: bytes) -> bytes:
    """Return the message for a file of which all pixels are needed."""
    return bytes(4) + len(content).to_bytes(8) + content


def replies(*messages: bytes) -> bytes:
    """Return what the program writes before its standard input is closed."""
    command = [sys.executable, "-m", "kontext.images.decoder_program"]
    return subprocess.run(command, input=b"".join(messages), capture_output=True, check=True).stdout


def test_an_image_takes_two_messages_and_two_replies() -> None:
    """The size comes before the pixels, and the next image may follow."""
    decoded = SIZE + SIZE + decode(PNG).tobytes()

    assert replies(request(PNG), b"\1", request(PNG), b"\1") == decoded * 2


def test_pixels_are_not_decoded_before_the_worker_asks_for_them() -> None:
    """If the worker closes the pipe instead, the program ends."""
    assert replies(request(PNG)) == SIZE


def test_a_refusal_ends_the_exchange() -> None:
    """It has a width of zero, and the next message is a new request."""
    sentence = b"Invalid image: not a JPEG, PNG, WebP, AVIF or GIF image"
    refusal = bytes(4) + len(sentence).to_bytes(4) + sentence

    assert replies(request(b"no image"), request(PNG)) == refusal + SIZE
