"""Decodes a file into an upright 8-bit sRGB image.

Knows image formats, orientation, colour profiles and transparency; does not know networks or
processes. Pillow decodes. Files that it would decode at any cost (too many pixels, or the tricks in
`kontext.images.file_structure`) are refused first. It can still take long or crash, so the worker
decodes in child processes: `kontext.images.decode_pool`.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from PIL import (
    AvifImagePlugin,  # noqa: F401 - else the first AVIF or WebP imports all 43 formats
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
from kontext.images.input_limits import MAX_MEGAPIXELS, MAX_SIDE, MIN_SIDE

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF")
MARGIN = 1.5
"""An image decoded at reduced size keeps sides at least so many times as long as needed. After
Lanczos, photographs then differ by 0.3 of 255 levels in the mean from those decoded in full."""

_SRGB = ImageCms.createProfile("sRGB")


def decode(content: bytes, pixels: int | None = None) -> Image.Image:
    """Decode the first frame; apply EXIF orientation and ICC profile; flatten alpha on white.

    Args:
        content: The file.
        pixels: The number of pixels that the image will be scaled to, if known; a much larger
            JPEG is decoded at a half, a quarter or an eighth of its sides, with the same aspect.

    Returns:
        An image of mode RGB, 8 bits a channel, without metadata.

    Raises:
        DecodeError: One sentence that names the rule and the value.
    """
    return decode_pixels(open_image(content, pixels))


def open_image(content: bytes, pixels: int | None = None) -> Image.Image:
    """Do the first part of `decode`: check the file, and read its header and metadata."""
    with _only_decode_errors():
        file_structure.check(content)
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        _check_size(image)
        _reduce(image, pixels or image.width * image.height)
        return image


def decode_pixels(image: Image.Image) -> Image.Image:
    """Do the second part of `decode`, for an image that `open_image` has returned."""
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
        raise DecodeError(f"Invalid image: more than {MAX_MEGAPIXELS} megapixels") from error
    except Exception as error:  # a decoder fed with hostile bytes may raise anything
        raise DecodeError(DAMAGED) from error


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in image.size):
        raise DecodeError(
            f"Invalid image: sides must be between {MIN_SIDE} and {MAX_SIDE} pixels, "
            f"got {width}*{height}"
        )
    if width * height > MAX_MEGAPIXELS * MEGAPIXEL:
        raise DecodeError(
            f"Invalid image: at most {MAX_MEGAPIXELS} megapixels, got {width}*{height}"
        )


def _reduce(image: Image.Image, pixels: int) -> None:
    """Have libjpeg decode fewer pixels where that is enough; other formats ignore `draft`."""
    width, height = image.size
    for part in (8, 4, 2):
        even = width % part == 0 and height % part == 0  # else the aspect would change
        if even and width * height >= pixels * (part * MARGIN) ** 2:
            image.draft(None, (width // part, height // part))
            return


def _eight_bit(image: Image.Image) -> Image.Image:
    """Convert palette, 1-bit and 16-bit images to RGB, L or CMYK, or to RGBA if transparent."""
    if image.mode == "I;16":
        image = _sixteen_bit_grey(image)
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in {"RGB", "L", "CMYK"} else image.convert("RGB")


def _sixteen_bit_grey(image: Image.Image) -> Image.Image:
    """Scale grey levels to 8 bits; `convert` alone would turn all above 255 into white."""
    grey = image.point(lambda level: level * (1 / 257) + 0.5).convert("L")
    if "transparency" in image.info:
        grey.info["transparency"] = round(image.info["transparency"] / 257)
    return grey


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Apply an embedded profile; ignore one that is damaged or of another colour space."""
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
    """Copy the pixels onto a new white image, without comments, profile and EXIF."""
    white = Image.new("RGB", image.size, "white")
    colours = image if image.mode == "RGB" else image.convert("RGB")
    white.paste(colours, mask=image if image.mode == "RGBA" else None)
    return white
