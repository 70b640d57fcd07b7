"""Bytes -> upright 8-bit sRGB picture, or one sentence why not.

Knows the formats, caps and repairs; nothing of networks. Pillow decodes; what it does not bound
itself (pixels, sides, progressive scans) is refused before it starts. The rest (metadata that
takes hours to read, a native decoder that crashes) is why `decode_apart` exists: run as a
program, this module decodes one picture after another in a process that can be killed.
"""

import io
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from struct import Struct
from threading import Event, Lock, Timer
from typing import IO, cast

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
MOST_PICTURES = 100
"""That one process decodes, so that what a decoder leaks or remembers is bounded."""

MARGIN = 1.5
"""How much longer than needed the sides of a picture stay that is decoded at reduced size. After
Lanczos, photographs then differ by 0.3 of 255 levels in the mean from the full path's."""

_DAMAGED = "Invalid image: the file is damaged or truncated"

_REQUEST = Struct(">IQ")
"""Pixels needed or 0, length of the file that follows."""
_REPLY = Struct(">II")
"""Width and height of the RGB pixels that follow, or 0 and the length of a refusal."""

_JPEG = b"\xff\xd8"
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")  # those of a segment with a length
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xd9"
_SRGB = ImageCms.createProfile("sRGB")


class Decoders:
    """Processes that decode, each one picture at a time; safe to use from several threads.

    One is kept for the next picture. A picture that comes while it is busy, were it with that of
    a job long cancelled, gets one of its own instead of waiting.
    """

    def __init__(self) -> None:
        self._idle: list[_Decoder] = []
        self._lock = Lock()

    def decode(
        self, content: bytes, pixels: int | None = None, seconds: float = MOST_SECONDS
    ) -> Image.Image:
        """Do the same as the function `decode`, in a process that is killed after `seconds`.

        Raises:
            DecodeError: One sentence that names the rule and the value.
        """
        decoder = self._take()
        try:
            return decoder.decode(content, pixels, seconds)
        finally:
            self._give_back(decoder)

    def close(self) -> None:
        """End the process that waits; the next picture starts another."""
        with self._lock:
            ended, self._idle = self._idle, []
        for decoder in ended:
            decoder.end()

    def _take(self) -> "_Decoder":
        with self._lock:
            decoder = self._idle.pop() if self._idle else None
        if decoder is None or not decoder.usable:  # the system may have killed it meanwhile
            return _Decoder()
        return decoder

    def _give_back(self, decoder: "_Decoder") -> None:
        with self._lock:
            keep = decoder.usable and decoder.pictures < MOST_PICTURES and not self._idle
            if keep:
                self._idle.append(decoder)
        if not keep:
            decoder.end()


class _Decoder:
    """One process; it ends when its standard input does, and so with us, however we end."""

    def __init__(self) -> None:
        self.pictures = 0
        self._in_step = True
        # A file, unlike a pipe, need not be drained.
        self._log = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._replies = cast("IO[bytes]", self._process.stdout)

    @property
    def usable(self) -> bool:
        return self._in_step and self._process.poll() is None

    def decode(self, content: bytes, pixels: int | None, seconds: float) -> Image.Image:
        self.pictures += 1
        self._in_step = False
        self._log.seek(0)
        self._log.truncate()
        with self._killed_after(seconds) as late:
            try:
                width, height, reply = self._ask(content, pixels or 0)
            except (OSError, EOFError):
                if late.is_set():
                    raise DecodeError(
                        f"Invalid image: it takes more than {seconds:g} seconds to decode"
                    ) from None
                raise DecodeError("Invalid image: its decoder crashed") from self._said()
        self._in_step = not late.is_set()
        if not width:
            raise DecodeError(reply.decode()) from self._said()
        return Image.frombytes("RGB", (width, height), reply)

    @contextmanager
    def _killed_after(self, seconds: float) -> Iterator[Event]:
        late = Event()

        def kill() -> None:
            late.set()
            self._process.kill()

        deadline = Timer(seconds, kill)
        deadline.start()
        try:
            yield late
        finally:
            deadline.cancel()
            deadline.join()  # or it might kill at the next picture

    def _ask(self, content: bytes, pixels: int) -> tuple[int, int, bytes]:
        self._requests.write(_REQUEST.pack(pixels, len(content)))
        self._requests.write(content)
        self._requests.flush()
        width, height = _REPLY.unpack(_read(self._replies, _REPLY.size))
        return width, height, _read(self._replies, width * height * 3 or height)

    def _said(self) -> RuntimeError:
        self._log.seek(0)
        said = self._log.read().decode(errors="replace")
        return RuntimeError(f"the decoder said: {said[-2000:]}")

    def end(self) -> None:
        self._process.kill()
        with suppress(OSError):  # what it did not read can no longer be written
            self._process.communicate()
        self._log.close()


def _read(stream: IO[bytes], length: int) -> bytes:
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content


decode_apart = Decoders().decode
"""Do the same as `decode`, in a process of its own; one for the life of the worker."""


def decode(content: bytes, pixels: int | None = None) -> Image.Image:
    """Decode the first frame; apply EXIF orientation and ICC profile; flatten alpha on white.

    Args:
        content: The file.
        pixels: How many the picture will be scaled to, if that is known; a JPEG of many more is
            decoded at a half, a quarter or an eighth of its sides, in the same proportion.

    Returns:
        A picture of mode RGB, 8 bits a channel, without metadata.

    Raises:
        DecodeError: One sentence that names the rule and the value.
    """
    with _only_decode_errors():
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
        _check(picture, content)
        _reduce(picture, pixels or picture.width * picture.height)
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


def _reduce(picture: Image.Image, pixels: int) -> None:
    """Have libjpeg decode fewer pixels, if it can: other decoders ignore a draft."""
    width, height = picture.size
    for part in (8, 4, 2):
        even = width % part == 0 and height % part == 0  # else the aspect would change
        if even and width * height >= pixels * (part * MARGIN) ** 2:
            picture.draft(None, (width // part, height // part))
            return


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
    colours = picture if picture.mode == "RGB" else picture.convert("RGB")
    white.paste(colours, mask=picture if picture.mode == "RGBA" else None)
    return white


def _main() -> None:
    """Answer requests until there are no more; a parent that was killed asks no more."""
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    while head := requests.read(_REQUEST.size):
        pixels, length = _REQUEST.unpack(head)
        signal.alarm(2 * MOST_SECONDS)  # ends us when the parent that should do so was killed
        for part in _reply(requests.read(length), pixels or None):
            replies.write(part)
        replies.flush()
        signal.alarm(0)


def _reply(content: bytes, pixels: int | None) -> tuple[bytes, bytes]:
    try:
        picture = decode(content, pixels)
    except DecodeError as error:
        traceback.print_exception(error)
        sys.stderr.flush()
        sentence = str(error).encode()
        return _REPLY.pack(0, len(sentence)), sentence
    return _REPLY.pack(*picture.size), picture.tobytes()


if __name__ == "__main__":
    _main()
