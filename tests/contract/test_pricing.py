"""What a delivered image costs."""

from kontext.contract.pricing import Pricing
from kontext.contract.size import Size


def test_the_documents_example_price() -> None:
    """1024*1024 costs what the document's example shows."""
    assert Pricing(usd_per_megapixel=0.03).cost(Size(1024, 1024)) == 0.031457
    assert Pricing().cost(Size(1024, 1024)) == 0.031457


def test_the_documents_flat_price() -> None:
    """A flat price replaces the rate, even a price of zero."""
    assert Pricing(usd_per_megapixel=0.03, usd_per_image=0.025).cost(Size(2048, 2048)) == 0.025
    assert Pricing(usd_per_megapixel=0.03, usd_per_image=0).cost(Size(256, 256)) == 0
