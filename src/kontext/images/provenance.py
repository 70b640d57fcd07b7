"""Describes how an image was made, as XMP: IPTC's digital source type and the edit's parameters.

Knows XMP; does not know image file formats. The prompt is never written.
"""

from dataclasses import asdict, dataclass
from xml.etree import ElementTree as ET

from kontext.contract.request import EDIT, GENERATE

_DIGITAL_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
EDITED = f"{_DIGITAL_SOURCE_TYPES}compositeWithTrainedAlgorithmicMedia"
"""IPTC's term for an image that was partly made by trained models."""
GENERATED = f"{_DIGITAL_SOURCE_TYPES}trainedAlgorithmicMedia"
"""IPTC's term for an image that was made by a trained model alone."""

_NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "kontext": "https://kontext.invalid/ns/1.0/",
}


@dataclass(frozen=True, slots=True)
class Provenance:
    """How an image was made: everything needed to repeat the edit, except its prompts and input.

    Attributes:
        task: Whether an image was edited or generated, in the contract's words.
        size: The size delivered, 'width*height'.
        generated: The size that the model generated, before it was scaled to `size`.
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
    task: str = EDIT

    @property
    def digital_source_type(self) -> str:
        """IPTC's term for how the image came about."""
        return GENERATED if self.task == GENERATE else EDITED

    def fields(self) -> dict[str, str]:
        """Return every attribute as text, by name."""
        return {name: str(value) for name, value in asdict(self).items()}


def xmp(provenance: Provenance) -> bytes:
    """Return an XMP packet (ISO 16684-1) in UTF-8."""
    for prefix, namespace in _NAMESPACES.items():
        ET.register_namespace(prefix, namespace)
    root = ET.Element(_name("x", "xmpmeta"))
    rdf = ET.SubElement(root, _name("rdf", "RDF"))
    description = ET.SubElement(rdf, _name("rdf", "Description"))
    description.set(_name("rdf", "about"), "")
    description.set(_name("Iptc4xmpExt", "DigitalSourceType"), provenance.digital_source_type)
    description.set(_name("xmp", "CreatorTool"), provenance.software)
    for name, value in provenance.fields().items():
        description.set(_name("kontext", name), value)
    packet: bytes = ET.tostring(root, encoding="utf-8")
    return packet


def _name(prefix: str, local: str) -> str:
    return f"{{{_NAMESPACES[prefix]}}}{local}"
