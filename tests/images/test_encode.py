"""Encoded files and the provenance in them."""

import io
import zlib
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from kontext.contract.output_format import OutputFormat
from kontext.images.encode import FastPng, encode, encode_png, fast_png
from kontext.images.provenance import Provenance, xmp

PROVENANCE = Provenance(
    software="kontext 0.1.0",
    model="black-forest-labs/FLUX.1-Kontext-dev",
    revision="abc123",
    mode="fast",
    seed=42,
    steps=28,
    guidance=2.5,
    size="64*48",
    generated="592*444",
)
WRITERS = [
    pytest.param(
        fast_png, id="fpng", marks=pytest.mark.skipif(not fast_png, reason="has no wheel here")
    ),
    pytest.param(None, id="Pillow"),
]


def image(width: int = 64, height: int = 48) -> Image.Image:
    """Return a colourful image."""
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def opened(content: bytes) -> Image.Image:
    """Decode what was encoded."""
    decoded = Image.open(io.BytesIO(content))
    decoded.load()
    return decoded


@pytest.mark.parametrize("output_format", OutputFormat)
def test_the_bytes_match_the_declared_type(output_format: OutputFormat) -> None:
    """The content type is the one that the bytes themselves declare."""
    decoded = opened(encode(image(), output_format, PROVENANCE, 95))

    assert Image.MIME[decoded.format or ""] == output_format.content_type
    assert decoded.size == (64, 48)


SIZES = [(1, 1), (16, 16), (17, 3), (3, 500), (257, 271), (1024, 1024)]


@pytest.mark.parametrize("fast", WRITERS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", ["noise", "flat", "gradient"])
def test_png_is_lossless(kind: str, size: tuple[int, int], fast: FastPng | None) -> None:
    """Every pixel survives, by the fast encoder and by Pillow alike."""
    original = {
        "noise": image(*size),
        "flat": Image.new("RGB", size, (12, 200, 3)),
        "gradient": Image.linear_gradient("L").resize(size).convert("RGB"),
    }[kind]

    assert opened(encode_png(original, xmp(PROVENANCE), fast)).tobytes() == original.tobytes()


def test_the_fast_encoder_reads_no_more_than_there_is() -> None:
    """It would read a grey image's bytes as RGB, and write the memory beyond them to the file."""
    grey = image().convert("L")

    png = encode(grey, OutputFormat.PNG, PROVENANCE, 95)

    assert opened(png).tobytes() == grey.convert("RGB").tobytes()


@pytest.mark.parametrize("fast", WRITERS)
def test_png_chunks_are_whole(fast: FastPng | None) -> None:
    """The provenance follows the header, and every chunk's checksum is right."""
    png = encode_png(image(), xmp(PROVENANCE), fast)
    kinds, at = [], 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4])
        body, checksum = png[at + 4 : at + 8 + length], png[at + 8 + length : at + 12 + length]
        assert zlib.crc32(body).to_bytes(4) == checksum
        kinds.append(body[:4])
        at += 12 + length

    assert kinds[:2] == [b"IHDR", b"iTXt"]
    assert kinds.count(b"iTXt") == 1
    assert kinds[-1] == b"IEND"


@pytest.mark.parametrize("output_format", [OutputFormat.JPEG, OutputFormat.WEBP])
def test_a_lower_quality_makes_a_smaller_file(output_format: OutputFormat) -> None:
    """The lossy formats obey it; a PNG is the same at any."""
    sizes = [len(encode(image(), output_format, PROVENANCE, quality)) for quality in (95, 50, 1)]

    assert sizes[0] > sizes[1] > sizes[2]
    png = OutputFormat.PNG
    assert encode(image(), png, PROVENANCE, 1) == encode(image(), png, PROVENANCE, 100)


def test_jpeg_has_quality_95_and_full_chroma() -> None:
    """The quantisation tables are those of quality 95, the chroma is 4:4:4."""
    decoded = opened(encode(image(), OutputFormat.JPEG, PROVENANCE, 95))
    plain = io.BytesIO()
    image().save(plain, "JPEG", quality=95)

    assert get_sampling(decoded) == 0
    assert decoded.quantization == opened(plain.getvalue()).quantization  # type: ignore[attr-defined]


@pytest.mark.parametrize("output_format", OutputFormat)
def test_provenance_is_in_the_file(output_format: OutputFormat) -> None:
    """A reader of XMP finds IPTC's source type, the software and the edit's parameters."""
    decoded = opened(encode(image(), output_format, PROVENANCE, 95))
    packet = decoded.info["XML:com.adobe.xmp" if output_format == "png" else "xmp"]
    description = next(
        ET.fromstring(packet).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    )
    facts = {name.rpartition("}")[2]: value for name, value in description.attrib.items()}

    assert facts.pop("about") == ""
    assert facts.pop("DigitalSourceType").endswith("/compositeWithTrainedAlgorithmicMedia")
    assert facts.pop("CreatorTool") == "kontext 0.1.0"
    assert facts == PROVENANCE.fields()


@pytest.mark.parametrize("output_format", OutputFormat)
def test_the_same_image_gives_the_same_bytes(output_format: OutputFormat) -> None:
    """No time stamp and no random id: the same edit gives the same file."""
    first, second = (encode(image(), output_format, PROVENANCE, 95) for _ in range(2))

    assert first == second
