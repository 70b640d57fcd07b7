"""How an image was made, as XMP."""

from dataclasses import replace
from xml.etree import ElementTree as ET

from kontext.images.provenance import EDITED, GENERATED, Provenance, xmp

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
    assert read.pop("DigitalSourceType") == EDITED
    assert read == PROVENANCE.fields()
    assert read["seed"] == "9223372036854775807"


def test_an_image_without_input_is_wholly_of_a_model() -> None:
    """IPTC has one term for an edited photograph and another for a generated image."""
    (description,) = ET.fromstring(xmp(replace(PROVENANCE, task="generate")))[0]
    read = {name.rpartition("}")[2]: value for name, value in description.attrib.items()}

    assert (read["task"], read["DigitalSourceType"]) == ("generate", GENERATED)


def test_the_parameters_fit_into_object_metadata() -> None:
    """S3 takes ASCII only."""
    assert all(value.isascii() for value in PROVENANCE.fields().values())
