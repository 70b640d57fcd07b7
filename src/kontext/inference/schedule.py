"""Computes the noise levels of an edit larger than one megapixel.

Pure arithmetic, no torch. `mu` shifts a schedule towards noise: a level s becomes
e^mu / (e^mu + 1 / s - 1). In the pipeline, mu grows linearly with the output's tokens, on a line
through 256 and 4,096 tokens that is not bounded. So the last of 28 steps starts at 0.105 at
1024*1024, but at 0.484 at 2048*2048, where a single Euler step would have to remove half of the
noise. Beyond 4,096 tokens, mu here follows the rule of the rectified-flow paper (arXiv 2403.03206,
section 5.3.2): resolutions look equally noisy when e^mu grows with the square root of the number of
pixels.
"""

import math

LINE_END_TOKENS = 4096
"""The output tokens of 1024 * 1024 pixels, where the pipeline's line should end."""

_LINE_END_MU = 1.15
_LINE_START_TOKENS, _LINE_START_MU = 256, 0.5
"""The two points of the line, from FLUX.1's scheduler configuration."""


def mu(tokens: int) -> float:
    """Return the shift for more than `LINE_END_TOKENS` output tokens."""
    return _LINE_END_MU + math.log(tokens / LINE_END_TOKENS) / 2


def sigmas(tokens: int, steps: int) -> list[float] | None:
    """Return the noise levels to pass to the pipeline, which shifts them by its own mu.

    Shifts add up, so the levels are shifted here by the difference between the two mu.

    Args:
        tokens: The output tokens, of 256 pixels each.
        steps: The number of denoising steps, at least 1.

    Returns:
        One level for each step, from 1 down; None up to `LINE_END_TOKENS`, where the pipeline's own
        levels are right.
    """
    if tokens <= LINE_END_TOKENS:
        return None
    difference = mu(tokens) - _pipeline_mu(tokens)
    return [_shift(1 - step / steps, difference) for step in range(steps)]


def _pipeline_mu(tokens: int) -> float:
    slope = (_LINE_END_MU - _LINE_START_MU) / (LINE_END_TOKENS - _LINE_START_TOKENS)
    return _LINE_START_MU + slope * (tokens - _LINE_START_TOKENS)


def _shift(level: float, by: float) -> float:
    return math.exp(by) / (math.exp(by) + 1 / level - 1)
