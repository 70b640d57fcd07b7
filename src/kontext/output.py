"""Picture -> PNG or JPEG bytes that say how they were made.

Provenance is written as XMP: IPTC's digital source type, and how to make the picture again; never
the prompt. The same picture and provenance give the same bytes.
"""

import io
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal
from xml.etree import ElementTree as ET

from PIL import Image

FastPng = Callable[[bytes, int, int, int], bytes]
"""RGB bytes, width, height and 3 channels -> a PNG file."""

fast_png: FastPng | None = None
with suppress(ImportError):  # it has no wheels but for x86-64
    from fpng import from_bytes as fast_png  # type: ignore[import-untyped,no-redef]

Format = Literal["png", "jpeg"]

CONTENT_TYPES: dict[Format, str] = {"png": "image/png", "jpeg": "image/jpeg"}
EXTENSIONS: dict[Format, str] = {"png": "png", "jpeg": "jpg"}

JPEG_QUALITY = 95
"""With 4:4:4 chroma, as Black Forest Labs' own `save_image` writes it."""

DIGITAL_SOURCE_TYPE = (
    "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
)
"""IPTC's term for a picture of which trained models made a part."""

_NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "kontext": "https://kontext.invalid/ns/1.0/",
}


_PNG_HEAD = 8 + 25
"""Bytes of a PNG's signature and of its header chunk."""
_XMP_KEYWORD = b"XML:com.adobe.xmp" + bytes(5)
"""Not compressed, without language and translation: a zero for each, two to end the fields."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a picture was made: all that is needed to make it again, but the prompt.

    Attributes:
        size: What was asked for and delivered, 'width*height'.
        generated: What the model generated, before it was scaled to `size`.
    """

    software: str
    model: str
    revision: str
    mode: str
    seed: int
    steps: int
    guidance: float
    size: str
    generated: str

    def fields(self) -> dict[str, str]:
        """Return every fact as text, by name."""
        return {name: str(value) for name, value in asdict(self).items()}


def encode(
    picture: Image.Image,
    image_format: Format,
    provenance: Provenance,
    fast: FastPng | None = fast_png,
) -> bytes:
    """Encode an RGB picture, lossless PNG or JPEG at quality 95."""
    if image_format == "png":
        # `fast` trusts us with the number of bytes, and would read beyond too few.
        pixels = picture.convert("RGB").tobytes()
        plain = fast(pixels, *picture.size, 3) if fast else _saved(picture, "PNG")
        return _with_xmp(plain, xmp(provenance))
    return _saved(picture, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4", xmp=xmp(provenance))


def _saved(picture: Image.Image, file_format: str, **options: Any) -> bytes:  # noqa: ANN401
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def _with_xmp(png: bytes, packet: bytes) -> bytes:
    """Put the packet behind the header, the first chunk, as XMP's specification has it (part 3)."""
    text = b"iTXt" + _XMP_KEYWORD + packet
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return b"".join((png[:_PNG_HEAD], chunk, png[_PNG_HEAD:]))


def xmp(provenance: Provenance) -> bytes:
    """Write an XMP packet (ISO 16684-1), UTF-8."""
    for prefix, namespace in _NAMESPACES.items():
        ET.register_namespace(prefix, namespace)
    root = ET.Element(_name("x", "xmpmeta"))
    rdf = ET.SubElement(root, _name("rdf", "RDF"))
    description = ET.SubElement(rdf, _name("rdf", "Description"))
    description.set(_name("rdf", "about"), "")
    description.set(_name("Iptc4xmpExt", "DigitalSourceType"), DIGITAL_SOURCE_TYPE)
    description.set(_name("xmp", "CreatorTool"), provenance.software)
    for name, value in provenance.fields().items():
        description.set(_name("kontext", name), value)
    packet: bytes = ET.tostring(root, encoding="utf-8")
    return packet


def _name(prefix: str, local: str) -> str:
    return f"{{{_NAMESPACES[prefix]}}}{local}"
