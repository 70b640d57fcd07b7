"""The largest and smallest input image that is accepted.

The time that decoding may take grows with these (`kontext.images.decoder_protocol`), and so does
the memory that it needs (`kontext.images.decode_pool`).
"""

MIN_SIDE, MAX_SIDE = 16, 10_000
"""Pixels."""

MAX_MEGAPIXELS = 40
"""Decimal megapixels."""
