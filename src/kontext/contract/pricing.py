"""Computes what a delivered image costs, and rounds it.

Pure arithmetic: does not know settings, jobs or images.
"""

from dataclasses import dataclass

from kontext.contract.size import MEGAPIXEL, Size

USD_PER_MEGAPIXEL = 0.03
"""The default rate. Runpod's document says both "$0.025 per image" and "calculated based on the
output megapixels"; its example, 0.031457, is 1.048576 decimal megapixels at this rate."""

DECIMALS = 6
"""Costs are rounded to a millionth of a dollar, as in the document's example."""


@dataclass(frozen=True, slots=True)
class Pricing:
    """The rates of a deployment, in US dollars.

    Attributes:
        usd_per_megapixel: The rate for each decimal megapixel delivered.
        usd_per_image: A flat price of an image; None means that the rate applies.
    """

    usd_per_megapixel: float = USD_PER_MEGAPIXEL
    usd_per_image: float | None = None

    def cost(self, size: Size) -> float:
        """Return the cost in US dollars of an image of `size`, rounded to a millionth."""
        if self.usd_per_image is not None:
            return round(self.usd_per_image, DECIMALS)
        return round(size.area / MEGAPIXEL * self.usd_per_megapixel, DECIMALS)
