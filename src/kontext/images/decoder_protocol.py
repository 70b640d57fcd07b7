"""The messages between the worker and a process that decodes, and how long decoding may take.

Knows the layout of the messages; does not know how processes are started or images decoded. For
each image the worker sends two messages, so that it knows the size before pixels are decoded and
can bound how many are decoded at once:

    worker     REQUEST, the file
    process    REPLY with the size, or a refusal that ends the exchange
    worker     CONTINUE
    process    REPLY with the size, the RGB pixels; or a refusal
"""

from struct import Struct

from kontext.contract.size import MEGAPIXEL

REQUEST = Struct(">IQ")
"""How many pixels are needed (0: all), and the length of the file that follows."""
REPLY = Struct(">II")
"""Width and height; or 0, and the length of the refusal that follows."""
CONTINUE = b"\1"

DECODE_TIMEOUT_SECONDS = 15
"""Wall-clock time for one image, however busy the machine is; the largest images that are accepted
take about 2."""

HEADER_CPU_SECONDS = 0.5
"""CPU time to read header and metadata, which usually takes milliseconds."""

_PIXEL_CPU_SECONDS, _CPU_SECONDS_PER_MEGAPIXEL = 0.5, 0.25
"""CPU time to decode pixels; the formats that were measured take 0.01 to 0.04 s a megapixel."""


def pixel_cpu_seconds(width: int, height: int) -> float:
    """Return the CPU time, in seconds, that decoding pixels of that size may take."""
    return _PIXEL_CPU_SECONDS + _CPU_SECONDS_PER_MEGAPIXEL * width * height / MEGAPIXEL
