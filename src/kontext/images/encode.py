"""Encodes an image in each output format of the contract, with its provenance as XMP inside.

The same image and provenance give the same bytes.
"""

import io
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from PIL import Image

from kontext.contract.output_format import OutputFormat
from kontext.images.provenance import Provenance, xmp

FastPng = Callable[[bytes, int, int, int], bytes]
"""RGB bytes, width, height and 3 channels -> a PNG file."""

fast_png: FastPng | None = None
with suppress(ImportError):  # it has no wheels but for x86-64
    from fpng import from_bytes as fast_png  # type: ignore[import-untyped,no-redef]

JPEG_QUALITY = 95
"""With 4:4:4 chroma, as Black Forest Labs' own `save_image` writes it."""

_PNG_HEAD = 8 + 25
"""Bytes of a PNG's signature and of its header chunk."""
_XMP_KEYWORD = b"XML:com.adobe.xmp" + bytes(5)
"""Not compressed, without language and translation: a zero for each, two to end the fields."""


def encode(image: Image.Image, output_format: OutputFormat, provenance: Provenance) -> bytes:
    """Encode an RGB image in the format, with its provenance inside."""
    return _ENCODERS[output_format](image, xmp(provenance))


def encode_png(image: Image.Image, packet: bytes, fast: FastPng | None = fast_png) -> bytes:
    """Encode an RGB image without loss, with an XMP packet inside.

    Args:
        image: The image.
        packet: The XMP, UTF-8.
        fast: The encoder to use; None takes Pillow's.
    """
    # `fast` trusts us with the number of bytes, and would read beyond too few.
    pixels = image.convert("RGB").tobytes()
    plain = fast(pixels, *image.size, 3) if fast else _saved(image, "PNG")
    return _with_xmp(plain, packet)


def encode_jpeg(image: Image.Image, packet: bytes) -> bytes:
    """Encode an RGB image at `JPEG_QUALITY`, with an XMP packet inside."""
    return _saved(image, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4", xmp=packet)


def _saved(image: Image.Image, file_format: str, **options: Any) -> bytes:  # noqa: ANN401
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _with_xmp(png: bytes, packet: bytes) -> bytes:
    """Put the packet behind the header, the first chunk, as XMP's specification has it (part 3)."""
    text = b"iTXt" + _XMP_KEYWORD + packet
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return b"".join((png[:_PNG_HEAD], chunk, png[_PNG_HEAD:]))


_ENCODERS: dict[OutputFormat, Callable[[Image.Image, bytes], bytes]] = {
    OutputFormat.PNG: encode_png,
    OutputFormat.JPEG: encode_jpeg,
}
if missing := set(OutputFormat) - set(_ENCODERS):
    raise NotImplementedError(f"no encoder for the output format {', '.join(missing)}")
