"""Bytes -> upright 8-bit sRGB picture, or one sentence why not.

Knows the formats, caps and repairs; nothing of networks. Pillow decodes; what it does not bound
itself (pixels, sides, progressive scans) is refused before it starts.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from kontext.errors import DecodeError

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF")
SHORTEST_SIDE, LONGEST_SIDE = 16, 10_000
MOST_MEGAPIXELS = 40
MOST_SCANS = 64
"""Start-of-scan markers in a JPEG. Progressive encoders write about 10; a bomb of 506 in 189 kB
costs Pillow 25 s (libjpeg-turbo's advisory LJT-01-003)."""

_SCAN_MARKER = b"\xff\xda"
_SRGB = ImageCms.createProfile("sRGB")


def decode(content: bytes) -> Image.Image:
    """Decode the first frame; apply EXIF orientation and ICC profile; flatten alpha on white.

    Returns:
        A picture of mode RGB, 8 bits a channel, without metadata.

    Raises:
        DecodeError: One sentence that names the rule and the value.
    """
    with _only_decode_errors():
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
        _check(picture, content)
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        return _on_white(_to_srgb(_eight_bit(upright), upright.info.get("icc_profile")))


@contextmanager
def _only_decode_errors() -> Iterator[None]:
    try:
        yield
    except DecodeError:
        raise
    except UnidentifiedImageError:
        raise DecodeError("Invalid image: not a JPEG, PNG, WebP, AVIF or GIF picture") from None
    except Image.DecompressionBombError as error:
        raise DecodeError(f"Invalid image: more than {MOST_MEGAPIXELS} megapixels") from error
    except Exception as error:  # a decoder fed with hostile bytes may raise anything
        raise DecodeError("Invalid image: the file is damaged or truncated") from error


def _check(picture: Image.Image, content: bytes) -> None:
    width, height = picture.size
    if not all(SHORTEST_SIDE <= side <= LONGEST_SIDE for side in picture.size):
        raise DecodeError(
            f"Invalid image: sides must be between {SHORTEST_SIDE} and {LONGEST_SIDE} pixels, "
            f"got {width}*{height}"
        )
    if width * height > MOST_MEGAPIXELS * 1e6:
        raise DecodeError(
            f"Invalid image: at most {MOST_MEGAPIXELS} megapixels, got {width}*{height}"
        )
    if picture.format == "JPEG" and (scans := content.count(_SCAN_MARKER)) > MOST_SCANS:
        raise DecodeError(f"Invalid image: at most {MOST_SCANS} JPEG scans, got {scans}")


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Bring palettes, 1 bit and 16 bit to RGB, L or CMYK, or to RGBA where there is alpha."""
    if picture.mode.startswith("I"):
        # `convert` would clip every value above 255 to white.
        levels = np.asarray(picture, dtype=np.uint32) // 257
        return Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    return picture if picture.mode in {"RGB", "L", "CMYK"} else picture.convert("RGB")


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Apply an embedded profile; a damaged one, or one of another colour space, is ignored."""
    if profile is None:
        return picture
    colours = picture.convert("RGB") if picture.mode == "RGBA" else picture
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(colours, source, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return picture
    if converted is None:
        return picture
    if picture.mode == "RGBA":
        converted.putalpha(picture.getchannel("A"))
    return converted


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    # A copy of the pixels alone: comments, profiles and EXIF stay behind.
    return Image.fromarray(np.asarray(picture.convert("RGB")))
