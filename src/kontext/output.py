"""Picture -> PNG or JPEG bytes that say how they were made.

Provenance is written as XMP: IPTC's digital source type, and how to make the picture again; never
the prompt. The same picture and provenance give the same bytes.
"""

import io
from dataclasses import asdict, dataclass
from typing import Literal
from xml.etree import ElementTree as ET

from PIL import Image
from PIL.PngImagePlugin import PngInfo

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


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a picture was made: all that is needed to make it again, but the prompt."""

    software: str
    model: str
    revision: str
    seed: int
    steps: int
    guidance: float
    size: str

    def fields(self) -> dict[str, str]:
        """Return every fact as text, by name."""
        return {name: str(value) for name, value in asdict(self).items()}


def encode(picture: Image.Image, image_format: Format, provenance: Provenance) -> bytes:
    """Encode an RGB picture, lossless PNG or JPEG at quality 95."""
    buffer = io.BytesIO()
    if image_format == "png":
        information = PngInfo()
        information.add_itxt("XML:com.adobe.xmp", xmp(provenance).decode())
        picture.save(buffer, "PNG", pnginfo=information)
    else:
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4", xmp=xmp(provenance))
    return buffer.getvalue()


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
