"""Images for tests, good and hostile, built in code; no file is checked in."""

import io
import re
import struct
import zlib
from typing import Any

from PIL import Image, ImageCms

RED, GREEN, BLUE, WHITE = (220, 20, 20), (20, 200, 20), (20, 20, 220), (255, 255, 255)
QUADRANTS = {
    ("top", "left"): RED,
    ("top", "right"): GREEN,
    ("bottom", "left"): BLUE,
    ("bottom", "right"): WHITE,
}


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """Return `image` as a file of that format."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def plain(width: int = 64, height: int = 48, colour: Any = RED, mode: str = "RGB") -> Image.Image:
    """Return an image of one colour."""
    return Image.new(mode, (width, height), colour)


def quadrants(width: int = 64, height: int = 32) -> Image.Image:
    """Return an image with a different colour in each quarter."""
    image = Image.new("RGB", (width, height))
    for (vertical, horizontal), colour in QUADRANTS.items():
        corner = (width // 2 * (horizontal == "right"), height // 2 * (vertical == "bottom"))
        image.paste(colour, (*corner, corner[0] + width // 2, corner[1] + height // 2))
    return image


def oriented(orientation: int) -> Image.Exif:
    """Return EXIF with that orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png_chunk(kind: bytes, data: bytes = b"") -> bytes:
    """Return one chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int) -> bytes:
    """Return a PNG whose header claims that size and whose pixels are missing."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b""))


def jpeg_with_scans(scans: int, jpeg: bytes | None = None) -> bytes:
    """Return a progressive JPEG that repeats its first scan until there are that many."""
    jpeg = jpeg or encoded(plain(), "JPEG", progressive=True)
    start = jpeg.index(b"\xff\xda")
    end = re.compile(rb"\xff[^\x00]").search(jpeg, start + 2)
    assert end is not None
    more = scans - jpeg.count(b"\xff\xda")
    return jpeg[: end.start()] + jpeg[start : end.start()] * more + jpeg[end.start() :]


def jpeg_with_segments(segment: bytes, count: int = 1) -> bytes:
    """Return a JPEG with that segment, its marker included, `count` times before its pixels."""
    jpeg = encoded(plain(), "JPEG")
    return jpeg[:2] + segment * count + jpeg[2:]


def jpeg_segment(marker: int, data: bytes) -> bytes:
    """Return one segment of a JPEG file."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def png_with_chunks(chunks: bytes) -> bytes:
    """Return a PNG with those chunks before its pixels."""
    png = encoded(plain(), "PNG")
    header = png.index(b"IDAT") - 4
    return png[:header] + chunks + png[header:]


def gif_bomb() -> bytes:
    """Return a GIF with 19 MB of zeros before its image, which Pillow reads byte by byte."""
    gif = encoded(plain(), "GIF")
    image = gif.index(b",\0\0\0\0")
    return gif[:image] + bytes(19_000_000) + gif[image:]


def srgb_profile() -> bytes:
    """Return an ICC profile of sRGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def lab_profile() -> bytes:
    """Return an ICC profile of a colour space that no test image has."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def display_p3_profile() -> bytes:
    """Return a profile of sRGB's curve with the primaries of Display P3, adapted to D50."""
    profile = bytearray(srgb_profile())
    primaries = {
        b"rXYZ": (0.51512, 0.24120, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.15710, 0.06657, 0.78407),
    }
    for tag, coordinates in primaries.items():
        entry = profile.index(tag)  # the tag table: signature, offset, size
        (offset,) = struct.unpack_from(">I", profile, entry + 4)
        struct.pack_into(">3i", profile, offset + 8, *(round(c * 65536) for c in coordinates))
    return bytes(profile)
