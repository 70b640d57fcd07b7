"""Bytes -> upright 8-bit sRGB picture, or one sentence why not.

Knows the formats, caps and repairs; nothing of networks. Pillow decodes; what it does not bound
itself (pixels, sides, progressive scans) is refused before it starts. The rest (metadata that
takes hours to read, a native decoder that crashes) is why `decode_apart` exists: run as a
program, this module decodes standard input in a process that can be killed.
"""

import io
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from kontext.errors import DecodeError

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF")
SHORTEST_SIDE, LONGEST_SIDE = 16, 10_000
MOST_MEGAPIXELS = 40
MOST_SCANS = 64
"""Scans of a JPEG. Progressive encoders write about 10; a bomb of 506 in 189 kB costs Pillow
25 s (libjpeg-turbo's advisory LJT-01-003)."""
MOST_SECONDS = 15
"""For one picture; the largest that the caps admit take about 4."""

_DAMAGED = "Invalid image: the file is damaged or truncated"
_REFUSED = 3
"""Exit status of a refusal, whose sentence is on standard output."""

_JPEG = b"\xff\xd8"
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")  # those of a segment with a length
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xd9"
_SRGB = ImageCms.createProfile("sRGB")


def decode_apart(content: bytes, seconds: float = MOST_SECONDS) -> Image.Image:
    """Do the same as `decode`, in a process of its own that ends after `seconds`.

    Raises:
        DecodeError: One sentence that names the rule and the value.
    """
    command = [sys.executable, "-m", __name__]
    try:
        done = subprocess.run(
            command, input=content, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise DecodeError(
            f"Invalid image: it takes more than {seconds:g} seconds to decode"
        ) from None
    log = RuntimeError(f"the decoder said: {done.stderr.decode(errors='replace')[-2000:]}")
    if done.returncode == _REFUSED:
        raise DecodeError(done.stdout.decode()) from log
    if done.returncode:
        raise DecodeError("Invalid image: its decoder crashed") from log
    return Image.open(io.BytesIO(done.stdout), formats=["PPM"]).copy()


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
        with suppress(Exception):  # damaged EXIF is no reason to refuse a picture
            ImageOps.exif_transpose(picture, in_place=True)
        return _on_white(_to_srgb(_eight_bit(picture), picture.info.get("icc_profile")))


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
        raise DecodeError(_DAMAGED) from error


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
    if content.startswith(_JPEG) and (scans := _scans(content)) > MOST_SCANS:
        raise DecodeError(f"Invalid image: at most {MOST_SCANS} JPEG scans, got {scans}")


def _scans(jpeg: bytes) -> int:
    """Count scans as libjpeg meets them: metadata, and the film that phones append, hold none."""
    scans, at = 0, len(_JPEG)
    while (marker := _MARKER.search(jpeg, at)) and marker[1] != _END_OF_IMAGE:
        scans += marker[1] == _START_OF_SCAN
        at = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
    return scans


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Bring palettes, 1 bit and 16 bit to RGB, L or CMYK, or to RGBA where there is alpha."""
    if picture.mode == "I;16":
        picture = _sixteen_bit_grey(picture)
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    return picture if picture.mode in {"RGB", "L", "CMYK"} else picture.convert("RGB")


def _sixteen_bit_grey(picture: Image.Image) -> Image.Image:
    """Scale to 8 bits; `convert` alone would clip every level above 255 to white."""
    grey = picture.point(lambda level: level * (1 / 257) + 0.5).convert("L")
    if "transparency" in picture.info:
        grey.info["transparency"] = round(picture.info["transparency"] / 257)
    return grey


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
    """Copy the pixels alone onto a fresh picture: comments, profiles and EXIF stay behind."""
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture.convert("RGB"), mask=picture if picture.mode == "RGBA" else None)
    return white


def _main() -> None:
    try:
        picture = decode(sys.stdin.buffer.read())
    except DecodeError as error:
        sys.stdout.write(str(error))
        traceback.print_exception(error)
        sys.exit(_REFUSED)
    picture.save(sys.stdout.buffer, "PPM")


if __name__ == "__main__":
    _main()
