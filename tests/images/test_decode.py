"""Decoding of every format, conversion and limit, and of hostile files."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from kontext.errors import DecodeError
from kontext.images.decode import decode
from kontext.images.file_structure import MAX_CHUNKS, MAX_SCANS, MAX_SEGMENTS
from kontext.images.input_limits import MAX_SIDE, MIN_SIDE
from tests.support.images import (
    BLUE,
    QUADRANTS,
    RED,
    WHITE,
    display_p3_profile,
    encoded,
    jpeg_segment,
    jpeg_with_scans,
    jpeg_with_segments,
    lab_profile,
    oriented,
    plain,
    png_chunk,
    png_claiming,
    png_with_chunks,
    quadrants,
    srgb_profile,
)

EXIF_ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}
"""Where the first row and the first column of the stored image are seen (EXIF 2.3, tag 274)."""

OPPOSITE = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}


def refusal(content: bytes) -> str:
    """Return the sentence that refuses `content`."""
    with pytest.raises(DecodeError) as caught:
        decode(content)
    sentence = str(caught.value)

    assert sentence.startswith("Invalid image: ")
    assert len(sentence.splitlines()) == 1
    return sentence


def pixel(image: Image.Image, x: int = 8, y: int = 8) -> tuple[int, int, int]:
    """Return one pixel of an RGB image."""
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value[0], value[1], value[2]


def corners(image: Image.Image) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Return the colour in the middle of each quadrant."""
    x = {"left": image.width // 4, "right": image.width * 3 // 4}
    y = {"top": image.height // 4, "bottom": image.height * 3 // 4}
    return {
        (vertical, horizontal): pixel(image, x[horizontal], y[vertical])
        for vertical, horizontal in QUADRANTS
    }


def seen(orientation: int) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Return where the stored quadrants are seen under that orientation."""
    first_row, first_column = EXIF_ORIENTATIONS[orientation]
    row = {"top": first_row, "bottom": OPPOSITE[first_row]}
    column = {"left": first_column, "right": OPPOSITE[first_column]}
    place = {}
    for (vertical, horizontal), colour in QUADRANTS.items():
        sides = {row[vertical], column[horizontal]}
        upright = "top" if "top" in sides else "bottom"
        place[upright, "left" if "left" in sides else "right"] = colour
    return place


@pytest.mark.parametrize("orientation", EXIF_ORIENTATIONS)
@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
    ],
    ids=["jpeg", "png", "webp", "avif"],
)
def test_a_image_is_upright(file_format: str, options: dict[str, object], orientation: int) -> None:
    """Every EXIF orientation is undone, in every format that carries one."""
    upright = decode(encoded(quadrants(), file_format, exif=oriented(orientation), **options))

    assert upright.size == ((32, 64) if orientation >= 5 else (64, 32))
    for place, colour in seen(orientation).items():
        assert corners(upright)[place] == pytest.approx(colour, abs=6)


@pytest.mark.hostile("images")
@pytest.mark.parametrize(
    "exif",
    [
        pytest.param(b"Exif\0\0garbage", id="garbage"),
        pytest.param(b"Exif\0\0II*\0\x08\0\0\0\xff\xff", id="truncated"),
        pytest.param(oriented(9), id="no such orientation"),
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_ignored(exif: bytes | Image.Exif) -> None:
    """An image whose EXIF says nothing is taken as it is stored."""
    assert corners(decode(encoded(quadrants(), "PNG", exif=exif))) == QUADRANTS


def half_hidden(mode: str) -> bytes:
    """Return a PNG whose left half is red or black, but fully transparent, beside opaque blue."""
    image = plain(colour=(*BLUE, 255), mode="RGBA")
    image.paste((*RED, 0), (0, 0, 32, 48))
    return encoded(image if mode == "RGBA" else image.convert(mode), "PNG")


def keyed(mode: str, hidden: int | tuple[int, ...], shown: int | tuple[int, ...]) -> bytes:
    """Return a PNG that names the colour of its left half as transparent."""
    image = plain(colour=shown, mode=mode)
    image.paste(hidden, (0, 0, 32, 48))
    return encoded(image, "PNG", transparency=hidden)


def half_hidden_palette() -> bytes:
    """Return a palette PNG whose first colour, red, is transparent."""
    image = Image.new("P", (64, 48), 1)
    image.putpalette([*RED, *BLUE])
    image.paste(0, (0, 0, 32, 48))
    return encoded(image, "PNG", transparency=b"\x00\xff")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(half_hidden("RGBA"), id="RGBA"),
        pytest.param(half_hidden("LA"), id="LA"),
        pytest.param(half_hidden_palette(), id="palette with tRNS"),
        pytest.param(keyed("RGB", RED, BLUE), id="RGB with tRNS"),
        pytest.param(keyed("L", 0, 90), id="grey with tRNS"),
        pytest.param(keyed("1", 0, 1), id="1 bit with tRNS"),
        pytest.param(
            encoded(plain(colour=30_000, mode="I;16"), "PNG", transparency=30_000),
            id="16-bit grey with tRNS",
        ),
    ],
)
def test_hidden_colours_become_white(content: bytes) -> None:
    """Pixels that no viewer shows must not reach the model."""
    image = decode(content)

    assert image.mode == "RGB"
    assert pixel(image, 8, 8) == WHITE


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_half_transparency_is_half_white(file_format: str) -> None:
    """Alpha is blended over white, not cut off."""
    image = plain(colour=(0, 0, 0, 128), mode="RGBA")

    assert pixel(decode(encoded(image, file_format, lossless=True))) == pytest.approx(
        (127, 127, 127), abs=1
    )


def test_cmyk_becomes_rgb() -> None:
    """A JPEG for print (CMYK) keeps its colours."""
    cyan = plain(colour=(255, 0, 0, 0), mode="CMYK")

    assert pixel(decode(encoded(cyan, "JPEG", quality=100))) == pytest.approx((0, 255, 255), abs=6)


@pytest.mark.parametrize(
    ("level", "expected"), [(0, 0), (257, 1), (30_000, 117), (65_278, 254), (65_535, 255)]
)
def test_sixteen_bits_are_scaled(level: int, expected: int) -> None:
    """A 16-bit grey keeps its brightness; a mere conversion would clip it to white."""
    grey = decode(encoded(plain(colour=level, mode="I;16"), "PNG"))

    assert pixel(grey) == (expected, expected, expected)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(plain(colour=1, mode="1"), WHITE, id="1 bit"),
        pytest.param(plain(colour=77, mode="L"), (77, 77, 77), id="grey"),
        pytest.param(quadrants().quantize(4), RED, id="palette"),
    ],
)
def test_small_modes_become_rgb(image: Image.Image, expected: tuple[int, int, int]) -> None:
    """1-bit, grey and palette images become RGB of the same colours."""
    decoded = decode(encoded(image, "PNG"))

    assert decoded.mode == "RGB"
    assert pixel(decoded) == pytest.approx(expected, abs=1)


def p3_to_srgb(colour: tuple[int, int, int]) -> tuple[float, ...]:
    """Convert by the matrix of CSS Color 4, which does not use ICC profiles."""
    encoded_values = np.array(colour) / 255
    linear = np.where(
        encoded_values <= 0.04045, encoded_values / 12.92, ((encoded_values + 0.055) / 1.055) ** 2.4
    )
    matrix = np.array(
        [
            [1.2249401, -0.2249402, 0],
            [-0.0420569, 1.0420571, 0],
            [-0.0196376, -0.0786361, 1.0982735],
        ]
    )
    mixed = (matrix @ linear).clip(0, 1)
    levels = np.where(mixed <= 0.0031308, mixed * 12.92, 1.055 * mixed ** (1 / 2.4) - 0.055)
    return tuple(levels * 255)


@pytest.mark.parametrize(
    ("file_format", "mode"),
    [("PNG", "RGB"), ("PNG", "RGBA"), ("WEBP", "RGB"), ("JPEG", "RGB")],
)
def test_a_profile_is_applied(file_format: str, mode: str) -> None:
    """Display P3, as phones write it, is converted to the same colours in sRGB."""
    colour = (200, 90, 60)
    image = plain(colour=colour).convert(mode)
    content = encoded(
        image, file_format, icc_profile=display_p3_profile(), lossless=True, quality=100
    )

    assert p3_to_srgb(colour) != pytest.approx(colour, abs=10)
    assert pixel(decode(content)) == pytest.approx(p3_to_srgb(colour), abs=2.5)


@pytest.mark.hostile("images")
@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        pytest.param("RGB", b"garbage", id="garbage"),
        pytest.param("RGB", srgb_profile()[:200], id="truncated"),
        pytest.param("RGB", lab_profile(), id="Lab on RGB"),
        pytest.param("L", display_p3_profile(), id="RGB on grey"),
        pytest.param("LA", display_p3_profile(), id="RGB on grey with alpha"),
    ],
)
def test_an_unfit_profile_is_ignored(mode: str, profile: bytes) -> None:
    """A damaged profile, or one of another colour space, changes nothing."""
    image = plain(colour=(128, 128, 128)).convert(mode)

    assert pixel(decode(encoded(image, "PNG", icc_profile=profile))) == (128, 128, 128)


def test_an_rgb_profile_on_cmyk_is_ignored() -> None:
    """There is no error, and the colours are not changed."""
    cyan = plain(colour=(255, 0, 0, 0), mode="CMYK")
    content = encoded(cyan, "JPEG", quality=100, icc_profile=srgb_profile())

    assert pixel(decode(content)) == pytest.approx((0, 255, 255), abs=6)


@pytest.mark.parametrize(
    ("file_format", "options"),
    [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("AVIF", {"quality": 100})],
    ids=["gif", "webp", "apng", "avif"],
)
def test_an_animation_shows_its_first_frame(file_format: str, options: dict[str, object]) -> None:
    """Later frames are ignored."""
    content = encoded(
        plain(), file_format, save_all=True, append_images=[plain(colour=BLUE)], **options
    )

    assert getattr(Image.open(io.BytesIO(content)), "n_frames", 1) == 2
    assert pixel(decode(content)) == pytest.approx(RED, abs=6)


@pytest.mark.parametrize("size", [(MIN_SIDE, 16), (MAX_SIDE, 16), (16, MAX_SIDE)])
def test_sides_up_to_the_limit_pass(size: tuple[int, int]) -> None:
    """16 and 10,000 pixels are within the limits."""
    assert decode(encoded(plain(*size), "PNG")).size == size


@pytest.mark.hostile("images")
@pytest.mark.parametrize("size", [(15, 64), (64, 15), (1, 1), (10_001, 16), (16, 10_001)])
def test_sides_beyond_the_limit_are_refused(size: tuple[int, int]) -> None:
    """15 and 10,001 pixels are not, and the sentence says what was sent."""
    assert refusal(encoded(plain(*size), "PNG")) == (
        f"Invalid image: sides must be between 16 and 10000 pixels, got {size[0]}*{size[1]}"
    )


def test_forty_megapixels_pass() -> None:
    """The largest accepted area keeps all its pixels."""
    assert decode(encoded(plain(8000, 5000, 1, "1"), "PNG")).size == (8000, 5000)


@pytest.mark.hostile("images")
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(png_claiming(8000, 5001), "at most 40 megapixels, got 8000*5001", id="just"),
        pytest.param(
            encoded(plain(10_000, 10_000, 1, "1"), "PNG"),
            "at most 40 megapixels, got 10000*10000",
            id="100 megapixels in 32 kB",
        ),
        pytest.param(
            png_claiming(60_000, 60_000), "more than 40 megapixels", id="beyond what Pillow opens"
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_more_than_forty_megapixels_are_refused(content: bytes, sentence: str) -> None:
    """A decompression bomb is refused by its header, before a pixel is decoded."""
    assert refusal(content) == f"Invalid image: {sentence}"


def test_sixty_four_scans_pass() -> None:
    """A JPEG with the largest accepted number of scans is decoded."""
    assert pixel(decode(jpeg_with_scans(MAX_SCANS))) == pytest.approx(RED, abs=6)


def test_a_multi_image_jpeg_passes() -> None:
    """Phones write depth maps and HDR gain maps behind the image itself."""
    content = encoded(plain(), "MPO", save_all=True, append_images=[plain(colour=BLUE)])

    assert pixel(decode(content)) == pytest.approx(RED, abs=6)


def scan_bomb(scans: int) -> bytes:
    """Return a progressive-scan bomb that is a multi-image file."""
    whole = encoded(plain(), "MPO", progressive=True, save_all=True, append_images=[plain()])
    end = whole.index(b"\xff\xd9") + 2
    return jpeg_with_scans(scans, whole[:end]) + whole[end:]


def fillers_between_scans(jpeg: bytes) -> bytes:
    """Return `jpeg` with restart markers and fill bytes before every scan but the first."""
    head, scan, rest = jpeg.partition(b"\xff\xda")
    return head + scan + rest.replace(b"\xff\xda", b"\xff\xd0\xff\x01\xff\xff\xda")


@pytest.mark.hostile("images")
@pytest.mark.parametrize(
    ("content", "scans"),
    [
        pytest.param(jpeg_with_scans(MAX_SCANS + 1), MAX_SCANS + 1, id="one too many"),
        pytest.param(jpeg_with_scans(506), 506, id="a bomb"),
        pytest.param(scan_bomb(506), 506, id="a bomb in a multi-image file"),
        pytest.param(fillers_between_scans(jpeg_with_scans(70)), 70, id="fillers between them"),
    ],
)
def test_more_scans_are_refused(content: bytes, scans: int) -> None:
    """A progressive-scan bomb is refused before it is decoded, however it is disguised."""
    assert refusal(content) == f"Invalid image: at most 64 JPEG scans, got {scans}"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(encoded(plain(), "JPEG") + b"\xff\xda" * 100, id="a film behind the image"),
        pytest.param(jpeg_with_segments(jpeg_segment(0xE5, b"\xff\xda" * 100)), id="metadata"),
    ],
)
def test_what_only_looks_like_scans_passes(content: bytes) -> None:
    """A phone's motion photo holds the marker's two bytes dozens of times, by chance."""
    assert pixel(decode(content)) == pytest.approx(RED, abs=6)


PROFILE = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(srgb_profile()))
TEXT = png_chunk(b"tEXt", b"key\0value")
COMMENT = jpeg_segment(0xFE, b"x")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(png_with_chunks(PROFILE), id="one profile"),
        pytest.param(png_with_chunks(TEXT * (MAX_CHUNKS - 10)), id="many chunks"),
        pytest.param(jpeg_with_segments(COMMENT * (MAX_SEGMENTS - 10)), id="many segments"),
        pytest.param(encoded(plain(), "PNG") + bytes(5_000_000), id="zeros behind a PNG"),
    ],
)
def test_much_metadata_passes(content: bytes) -> None:
    """The files hold more metadata than any encoder writes."""
    assert pixel(decode(content)) == pytest.approx(RED, abs=6)


@pytest.mark.hostile("images")
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(
            png_with_chunks(PROFILE * 2), "at most 1 colour profile in a PNG, got 2", id="profiles"
        ),
        pytest.param(
            png_with_chunks(TEXT * MAX_CHUNKS), "at most 50,000 PNG chunks, got more", id="chunks"
        ),
        pytest.param(
            jpeg_with_segments(COMMENT * MAX_SEGMENTS),
            "at most 1000 JPEG segments, got more",
            id="segments",
        ),
        pytest.param(b"\xff\xd8" + b"\xff" * 1000, "the file is damaged or truncated", id="fill"),
    ],
)
def test_more_metadata_is_refused(content: bytes, sentence: str) -> None:
    """It is refused before it is read: decoders limit neither its number nor the time of each."""
    assert refusal(content) == f"Invalid image: {sentence}"


PSD = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 64, 64, 8, 3) + bytes(100)
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script/></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"


@pytest.mark.hostile("images")
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(encoded(plain(), "BMP"), id="BMP"),
        pytest.param(encoded(plain(), "TIFF"), id="TIFF"),
        pytest.param(encoded(plain(), "ICO"), id="ICO"),
        pytest.param(encoded(plain(), "PPM"), id="PPM"),
        pytest.param(encoded(plain(), "TGA"), id="TGA"),
        pytest.param(encoded(plain(), "PDF"), id="PDF"),
        pytest.param(encoded(plain(), "EPS"), id="EPS"),
        pytest.param(EPS, id="EPS for Ghostscript"),
        pytest.param(PSD, id="PSD"),
        pytest.param(SVG, id="SVG"),
        pytest.param(b"<!doctype html><title>404</title>", id="HTML"),
        pytest.param(b"<html>" + encoded(plain(), "PNG"), id="HTML before a PNG"),
        pytest.param(b"PK\3\4" + bytes(100), id="ZIP"),
        pytest.param(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), id="HEIC"),
        pytest.param(b"", id="nothing"),
        pytest.param(bytes(1000), id="zeros"),
        pytest.param(bytes(range(256)) * 8, id="any bytes"),
    ],
)
def test_other_formats_are_refused(content: bytes) -> None:
    """A file of another format than the five is not decoded."""
    assert refusal(content) == "Invalid image: not a JPEG, PNG, WebP, AVIF or GIF image"


@pytest.mark.hostile("images")
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "AVIF", "GIF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_truncated_image_is_refused(file_format: str, part: float) -> None:
    """Otherwise the missing part would be grey, and be edited as part of the image."""
    content = encoded(Image.effect_noise((96, 96), 80).convert("RGB"), file_format)

    assert refusal(content[: int(len(content) * part)]) in {
        "Invalid image: the file is damaged or truncated",
        "Invalid image: not a JPEG, PNG, WebP, AVIF or GIF image",
    }


@pytest.mark.hostile("images")
def test_a_signature_alone_is_refused() -> None:
    """The first bytes of a format do not make an image."""
    for signature in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\4\0\0\0WEBP"):
        assert refusal(signature)


@pytest.mark.hostile("images")
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(encoded(plain(), "PNG") + b"PK\3\4<script>", id="ZIP behind a PNG"),
        pytest.param(encoded(plain(), "GIF") + b"<script>", id="HTML behind a GIF"),
        pytest.param(
            jpeg_with_segments(jpeg_segment(0xFE, b"*/<script>alert(1)</script>/*")),
            id="script in a JPEG's comment",
        ),
    ],
)
def test_a_polyglot_leaves_only_its_pixels(content: bytes) -> None:
    """A file that is also valid in another format loses everything but its pixels."""
    image = decode(content)

    assert b"script" not in encoded(image, "PNG") + encoded(image, "JPEG")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_no_metadata_survives(file_format: str) -> None:
    """Profiles, locations and comments are removed: the result holds pixels only."""
    exif = oriented(6)
    exif[0x010E] = "a place and a name"
    content = encoded(
        plain(), file_format, exif=exif, icc_profile=srgb_profile(), comment=b"a comment"
    )
    image = decode(content)

    assert image.info == {}
    assert not image.getexif()
    assert type(image) is Image.Image


def photograph(width: int, height: int) -> Image.Image:
    """Return noise at several scales and a hard edge, as photographs have them."""
    random = np.random.default_rng(0)
    levels = np.full((height, width, 3), 128.0)
    for cells in (4, 16, 64, 256):
        noise = random.integers(0, 255, (cells, cells, 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        levels += (np.asarray(layer) - 127.5) / cells**0.5
    levels[height // 3 : height // 2] = RED
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "pixels", "expected"),
    [
        pytest.param((1024, 768), None, (1024, 768), id="nothing known"),
        pytest.param((1024, 768), 512 * 384, (1024, 768), id="twice is needed to be exact"),
        pytest.param((1536, 768), 512 * 256, (768, 384), id="three times the sides"),
        pytest.param((1536, 768), 512 * 256 + 1, (1536, 768), id="a little less"),
        pytest.param((2048, 1024), 64 * 32, (256, 128), id="no less than an eighth"),
        pytest.param((1026, 770), 64 * 48, (513, 385), id="what divides by two only"),
        pytest.param((1025, 770), 64 * 48, (1025, 770), id="what cannot keep its aspect"),
    ],
)
def test_a_jpeg_much_too_large_is_decoded_smaller(
    size: tuple[int, int], pixels: int | None, expected: tuple[int, int]
) -> None:
    """In the same proportion to the pixel, and at least 1.5 times the sides needed."""
    assert decode(encoded(plain(*size), "JPEG"), pixels).size == expected


def test_a_smaller_decoding_is_as_good() -> None:
    """After Lanczos it differs from the full-size image by less than one level in the mean."""
    content = encoded(photograph(1536, 1152), "JPEG", quality=92)
    whole, smaller = decode(content), decode(content, 512 * 384)
    fitted = [
        np.asarray(image.resize((512, 384), Image.Resampling.LANCZOS), dtype=int)
        for image in (whole, smaller)
    ]

    assert smaller.size == (768, 576)
    assert np.abs(fitted[0] - fitted[1]).mean() < 1


@pytest.mark.parametrize("orientation", EXIF_ORIENTATIONS)
def test_a_smaller_decoding_is_upright(orientation: int) -> None:
    """The EXIF orientation is undone at reduced size too."""
    content = encoded(quadrants(256, 128), "JPEG", quality=100, exif=oriented(orientation))
    upright = decode(content, 1)

    assert upright.size == ((16, 32) if orientation >= 5 else (32, 16))
    for place, colour in seen(orientation).items():
        assert corners(upright)[place] == pytest.approx(colour, abs=12)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "AVIF", "GIF"])
def test_other_formats_are_decoded_whole(file_format: str) -> None:
    """Only the JPEG decoder can decode at a reduced size."""
    assert decode(encoded(plain(), file_format), 1).size == (64, 48)
