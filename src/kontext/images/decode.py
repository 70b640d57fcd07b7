"""Bytes -> upright 8-bit sRGB image, or one sentence why not.

Knows the formats, caps and repairs; nothing of networks or processes. Pillow decodes; what it does
not bound itself (pixels, sides, what `kontext.images.file_structure` knows) is refused before it
starts. It may still take long or crash, so production decodes in a process of its own:
`kontext.images.decode_pool`.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from PIL import (
    AvifImagePlugin,  # noqa: F401 - or the first AVIF or WebP would have all 43 formats imported
    Image,
    ImageCms,
    ImageOps,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from kontext.contract.size import MEGAPIXEL
from kontext.errors import DecodeError
from kontext.images import file_structure
from kontext.images.file_structure import DAMAGED

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF")
SHORTEST_SIDE, LONGEST_SIDE = 16, 10_000
MOST_MEGAPIXELS = 40
MARGIN = 1.5
"""How much longer than needed the sides of an image stay that is decoded at reduced size. After
Lanczos, photographs then differ by 0.3 of 255 levels in the mean from the full path's."""

_SRGB = ImageCms.createProfile("sRGB")


def decode(content: bytes, pixels: int | None = None) -> Image.Image:
    """Decode the first frame; apply EXIF orientation and ICC profile; flatten alpha on white.

    Args:
        content: The file.
        pixels: How many the image will be scaled to, if that is known; a JPEG of many more is
            decoded at a half, a quarter or an eighth of its sides, in the same proportion.

    Returns:
        An image of mode RGB, 8 bits a channel, without metadata.

    Raises:
        DecodeError: One sentence that names the rule and the value.
    """
    return decode_pixels(open_image(content, pixels))


def open_image(content: bytes, pixels: int | None = None) -> Image.Image:
    """Do the first part of `decode`: read header and metadata, no pixels."""
    with _only_decode_errors():
        file_structure.check(content)
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        _check_size(image)
        _reduce(image, pixels or image.width * image.height)
        return image


def decode_pixels(image: Image.Image) -> Image.Image:
    """Do the rest of `decode`, with what `open_image` has returned."""
    with _only_decode_errors():
        image.load()
        with suppress(Exception):  # damaged EXIF is no reason to refuse an image
            ImageOps.exif_transpose(image, in_place=True)
        return _on_white(_to_srgb(_eight_bit(image), image.info.get("icc_profile")))


@contextmanager
def _only_decode_errors() -> Iterator[None]:
    try:
        yield
    except DecodeError:
        raise
    except UnidentifiedImageError:
        raise DecodeError("Invalid image: not a JPEG, PNG, WebP, AVIF or GIF image") from None
    except Image.DecompressionBombError as error:
        raise DecodeError(f"Invalid image: more than {MOST_MEGAPIXELS} megapixels") from error
    except Exception as error:  # a decoder fed with hostile bytes may raise anything
        raise DecodeError(DAMAGED) from error


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if not all(SHORTEST_SIDE <= side <= LONGEST_SIDE for side in image.size):
        raise DecodeError(
            f"Invalid image: sides must be between {SHORTEST_SIDE} and {LONGEST_SIDE} pixels, "
            f"got {width}*{height}"
        )
    if width * height > MOST_MEGAPIXELS * MEGAPIXEL:
        raise DecodeError(
            f"Invalid image: at most {MOST_MEGAPIXELS} megapixels, got {width}*{height}"
        )


def _reduce(image: Image.Image, pixels: int) -> None:
    """Have libjpeg decode fewer pixels, if it can: other decoders ignore a draft."""
    width, height = image.size
    for part in (8, 4, 2):
        even = width % part == 0 and height % part == 0  # else the aspect would change
        if even and width * height >= pixels * (part * MARGIN) ** 2:
            image.draft(None, (width // part, height // part))
            return


def _eight_bit(image: Image.Image) -> Image.Image:
    """Bring palettes, 1 bit and 16 bit to RGB, L or CMYK, or to RGBA where there is alpha."""
    if image.mode == "I;16":
        image = _sixteen_bit_grey(image)
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in {"RGB", "L", "CMYK"} else image.convert("RGB")


def _sixteen_bit_grey(image: Image.Image) -> Image.Image:
    """Scale to 8 bits; `convert` alone would clip every level above 255 to white."""
    grey = image.point(lambda level: level * (1 / 257) + 0.5).convert("L")
    if "transparency" in image.info:
        grey.info["transparency"] = round(image.info["transparency"] / 257)
    return grey


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Apply an embedded profile; a damaged one, or one of another colour space, is ignored."""
    if profile is None:
        return image
    colours = image.convert("RGB") if image.mode == "RGBA" else image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(colours, source, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image
    if converted is None:
        return image
    if image.mode == "RGBA":
        converted.putalpha(image.getchannel("A"))
    return converted


def _on_white(image: Image.Image) -> Image.Image:
    """Copy the pixels alone onto a fresh image: comments, profiles and EXIF stay behind."""
    white = Image.new("RGB", image.size, "white")
    colours = image if image.mode == "RGB" else image.convert("RGB")
    white.paste(colours, mask=image if image.mode == "RGBA" else None)
    return white
