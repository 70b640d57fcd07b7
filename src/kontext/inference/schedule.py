"""Noise levels of an edit beyond one megapixel; pure arithmetic, no torch.

A schedule is shifted towards noise by `mu`: a level s becomes e^mu / (e^mu + 1 / s - 1). The
pipeline lets mu grow linearly with the output's tokens, a line drawn from 256 to 4,096 of them and
unbounded beyond: of 28 steps the last one starts at 0.105 at 1024*1024, but at 0.484 at 2048*2048,
so that a single Euler step would have to remove half of the noise. Beyond the line's end mu follows
the rule of the rectified-flow paper instead (arXiv 2403.03206, section 5.3.2): resolutions look
equally noisy when e^mu grows with the square root of the number of pixels.
"""

import math

LAST_TOKENS = 4096
"""Output tokens where the pipeline's line ends: 1024 * 1024 pixels."""

LAST_MU = 1.15
_FIRST_TOKENS, _FIRST_MU = 256, 0.5
"""The line's ends, as FLUX.1's scheduler configuration has them."""


def mu(tokens: int) -> float:
    """Return the shift for so many output tokens, more than `LAST_TOKENS`."""
    return LAST_MU + math.log(tokens / LAST_TOKENS) / 2


def sigmas(tokens: int, steps: int) -> list[float] | None:
    """Return the levels to hand to the pipeline, which shifts them by its own mu.

    They are shifted back by the difference beforehand, since shifts add up.

    Args:
        tokens: Of the output, 256 pixels each.
        steps: Denoising steps, at least 1.

    Returns:
        Levels from 1 down, one a step; None up to `LAST_TOKENS`, where the pipeline's own hold.
    """
    if tokens <= LAST_TOKENS:
        return None
    difference = mu(tokens) - _pipelines_mu(tokens)
    return [_shifted(1 - step / steps, difference) for step in range(steps)]


def _pipelines_mu(tokens: int) -> float:
    slope = (LAST_MU - _FIRST_MU) / (LAST_TOKENS - _FIRST_TOKENS)
    return _FIRST_MU + slope * (tokens - _FIRST_TOKENS)


def _shifted(level: float, shift: float) -> float:
    return math.exp(shift) / (math.exp(shift) + 1 / level - 1)
