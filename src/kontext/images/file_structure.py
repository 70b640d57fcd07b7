"""Cheap checks of a file's structure, in milliseconds, before any decoder reads it.

Knows of JPEG and PNG what their decoders do not bound: scans, segments, chunks and colour profiles.
Knows no pixels; whether the file is an image at all is `kontext.images.decode`'s business.
"""

import re

from kontext.errors import DecodeError

MOST_SCANS = 64
"""Scans of a JPEG. Progressive encoders write about 10; a bomb of 506 in 189 kB costs Pillow
25 s (libjpeg-turbo's advisory LJT-01-003)."""
MOST_SEGMENTS = 1000
"""Other segments of a JPEG. A colour profile takes 255 at most, 20 MB of metadata 312; a bomb of
3,000,000 costs Pillow 5 s and 400 MB."""
MOST_CHUNKS = 50_000
"""Chunks of a PNG. Encoders write one for each 4 kB or more: 5,000 in 20 MB; a bomb of 1,600,000
costs Pillow 4 s."""
MOST_PROFILES = 1
"""Colour profiles of a PNG, as its specification has it; each costs Pillow up to 2 ms, and 15,000
fit into 15 MB."""

DAMAGED = "Invalid image: the file is damaged or truncated"

_JPEG = b"\xff\xd8\xff"
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")  # those of a segment with a length
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xd9"
_PNG = b"\x89PNG\r\n\x1a\n"
_PROFILE, _LAST = b"iCCP", b"IEND"


def check(content: bytes) -> None:
    """Refuse a file that is built to be slow.

    Raises:
        DecodeError: One sentence that names the rule and the value.
    """
    if content.startswith(_JPEG):
        _check_jpeg(content)
    if content.startswith(_PNG):
        _check_png(content)


def _check_jpeg(jpeg: bytes) -> None:
    """Count segments as libjpeg meets them: the film that phones append holds none."""
    scans, others, at = 0, 0, len(_JPEG) - 1
    while (marker := _MARKER.search(jpeg, at)) and marker[1] != _END_OF_IMAGE:
        scans += marker[1] == _START_OF_SCAN
        others += marker[1] != _START_OF_SCAN
        if others > MOST_SEGMENTS:
            raise DecodeError(f"Invalid image: at most {MOST_SEGMENTS} JPEG segments, got more")
        at = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
    if scans > MOST_SCANS:
        raise DecodeError(f"Invalid image: at most {MOST_SCANS} JPEG scans, got {scans}")
    if not scans:
        raise DecodeError(DAMAGED)


def _check_png(png: bytes) -> None:
    chunks, profiles, at, kind = 0, 0, len(_PNG), b""
    while at < len(png) and kind != _LAST:
        length, kind = int.from_bytes(png[at : at + 4]), png[at + 4 : at + 8]
        chunks += 1
        profiles += kind == _PROFILE
        if chunks > MOST_CHUNKS:
            raise DecodeError(f"Invalid image: at most {MOST_CHUNKS:,} PNG chunks, got more")
        at += length + 12  # with its length, kind and checksum
    if profiles > MOST_PROFILES:
        raise DecodeError(
            f"Invalid image: at most {MOST_PROFILES} colour profile in a PNG, got {profiles}"
        )
