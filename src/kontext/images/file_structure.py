"""Refuses files that are built to be slow, in milliseconds, before a decoder reads them.

Knows what the decoders of JPEG and PNG do not limit: scans, segments, chunks and colour profiles.
Does not read pixels, nor decide whether a file is an image: `kontext.images.decode` does.
"""

import re

from kontext.errors import DecodeError

MAX_SCANS = 64
"""Scans of a JPEG. Progressive encoders write about 10; a malicious file with 506 in 189 kB takes
Pillow 25 s (libjpeg-turbo's advisory LJT-01-003)."""
MAX_SEGMENTS = 1000
"""Other segments of a JPEG. A colour profile needs 255 at most, 20 MB of metadata 312; a malicious
file with 3,000,000 takes Pillow 5 s and 400 MB."""
MAX_CHUNKS = 50_000
"""Chunks of a PNG. Encoders write at most one for each 4 kB, 5,000 in 20 MB; a malicious file with
1,600,000 takes Pillow 4 s."""
MAX_PROFILES = 1
"""Colour profiles of a PNG, by its specification; each takes Pillow up to 2 ms, and 15,000 fit into
15 MB."""

DAMAGED = "Invalid image: the file is damaged or truncated"

_JPEG = b"\xff\xd8\xff"
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")  # markers of segments that have a length
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xd9"
_PNG = b"\x89PNG\r\n\x1a\n"
_PROFILE, _LAST = b"iCCP", b"IEND"


def check(content: bytes) -> None:
    """Refuse a JPEG or PNG file whose structure would take a decoder too long.

    Raises:
        DecodeError: One sentence that names the rule and the value.
    """
    if content.startswith(_JPEG):
        _check_jpeg(content)
    if content.startswith(_PNG):
        _check_png(content)


def _check_jpeg(jpeg: bytes) -> None:
    """Count segments as libjpeg does, up to the end of the image: phones append a film to it."""
    scans, others, position = 0, 0, len(_JPEG) - 1
    while (marker := _MARKER.search(jpeg, position)) and marker[1] != _END_OF_IMAGE:
        scans += marker[1] == _START_OF_SCAN
        others += marker[1] != _START_OF_SCAN
        if others > MAX_SEGMENTS:
            raise DecodeError(f"Invalid image: at most {MAX_SEGMENTS} JPEG segments, got more")
        position = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
    if scans > MAX_SCANS:
        raise DecodeError(f"Invalid image: at most {MAX_SCANS} JPEG scans, got {scans}")
    if not scans:
        raise DecodeError(DAMAGED)


def _check_png(png: bytes) -> None:
    chunks, profiles, position, kind = 0, 0, len(_PNG), b""
    while position < len(png) and kind != _LAST:
        length = int.from_bytes(png[position : position + 4])
        kind = png[position + 4 : position + 8]
        chunks += 1
        profiles += kind == _PROFILE
        if chunks > MAX_CHUNKS:
            raise DecodeError(f"Invalid image: at most {MAX_CHUNKS:,} PNG chunks, got more")
        position += length + 12  # with length, kind and checksum
    if profiles > MAX_PROFILES:
        raise DecodeError(
            f"Invalid image: at most {MAX_PROFILES} colour profile in a PNG, got {profiles}"
        )
