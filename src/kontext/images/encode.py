"""Encodes results in the contract's output formats, with their provenance as XMP.

Knows file formats; does not know what the provenance says. The same image and provenance give the
same bytes.
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
"""Takes RGB bytes, width, height and the number of channels, 3; returns a PNG file."""

fast_png: FastPng | None = None
with suppress(ImportError):  # it has wheels for x86-64 only
    from fpng import from_bytes as fast_png  # type: ignore[import-untyped,no-redef]

_PNG_HEAD = 8 + 25
"""Bytes of a PNG's signature and of its header chunk."""
_XMP_KEYWORD = b"XML:com.adobe.xmp" + bytes(5)
"""The keyword, and zero bytes that mean: not compressed, no language, no translated keyword."""


def encode(
    image: Image.Image, output_format: OutputFormat, provenance: Provenance, quality: int
) -> bytes:
    """Encode an RGB image in `output_format`, with its provenance as XMP.

    Args:
        image: The image.
        output_format: The file format.
        provenance: How the image was made.
        quality: 1..100, for the formats that lose something.
    """
    return _ENCODERS[output_format](image, xmp(provenance), quality)


def encode_png(image: Image.Image, packet: bytes, fast: FastPng | None = fast_png) -> bytes:
    """Encode an RGB image without loss, with an XMP packet.

    Args:
        image: The image.
        packet: The XMP packet, in UTF-8.
        fast: The encoder; None means Pillow's.
    """
    # `fast` does not check the number of bytes: with too few it would read beyond their end.
    pixels = image.convert("RGB").tobytes()
    plain = fast(pixels, *image.size, 3) if fast else _saved(image, "PNG")
    return _with_xmp(plain, packet)


def encode_jpeg(image: Image.Image, packet: bytes, quality: int) -> bytes:
    """Encode an RGB image with 4:4:4 chroma, as Black Forest Labs' own `save_image` does."""
    return _saved(image, "JPEG", quality=quality, subsampling="4:4:4", xmp=packet)


def encode_webp(image: Image.Image, packet: bytes, quality: int) -> bytes:
    """Encode an RGB image as a lossy WebP, with an XMP packet."""
    return _saved(image, "WEBP", quality=quality, xmp=packet)


def _saved(image: Image.Image, file_format: str, **options: Any) -> bytes:  # noqa: ANN401
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _with_xmp(png: bytes, packet: bytes) -> bytes:
    """Insert the packet after the header chunk, where XMP's specification (part 3) wants it."""
    text = b"iTXt" + _XMP_KEYWORD + packet
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return b"".join((png[:_PNG_HEAD], chunk, png[_PNG_HEAD:]))


_ENCODERS: dict[OutputFormat, Callable[[Image.Image, bytes, int], bytes]] = {
    OutputFormat.PNG: lambda image, packet, _: encode_png(image, packet),
    OutputFormat.JPEG: encode_jpeg,
    OutputFormat.WEBP: encode_webp,
}
if missing := set(OutputFormat) - set(_ENCODERS):
    raise NotImplementedError(f"no encoder for the output format {', '.join(missing)}")
