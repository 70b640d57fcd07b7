"""How an image was made, as XMP."""

from xml.etree import ElementTree as ET

from kontext.images.provenance import DIGITAL_SOURCE_TYPE, Provenance, xmp

PROVENANCE = Provenance(
    software='kontext "1" & <more>',
    model="black-forest-labs/FLUX.1-Kontext-dev",
    revision="abc123",
    mode="fast",
    seed=2**63 - 1,
    steps=28,
    guidance=2.5,
    size="64*48",
    generated="592*444",
)


def test_every_parameter_can_be_read_back() -> None:
    """Characters that XML reserves are escaped, and numbers keep all their digits."""
    (description,) = ET.fromstring(xmp(PROVENANCE))[0]
    read = {name.rpartition("}")[2]: value for name, value in description.attrib.items()}

    assert read.pop("about") == ""
    assert read.pop("CreatorTool") == PROVENANCE.software
    assert read.pop("DigitalSourceType") == DIGITAL_SOURCE_TYPE
    assert read == PROVENANCE.fields()
    assert read["seed"] == "9223372036854775807"


def test_the_parameters_fit_into_object_metadata() -> None:
    """S3 takes ASCII only."""
    assert all(value.isascii() for value in PROVENANCE.fields().values())
