"""Draw training images: crops of scikit-image's sample photographs, and images made by code.

Knows neither edits nor networks. The same seed gives the same images.
"""

import functools
import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFilter

PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "coffee",
    "grass",
    "hubble_deep_field",
    "ihc",
    "rocket",
)
"""The sample images used: public domain or CC0, by the docstrings of `skimage.data`."""
HELD_OUT = "chelsea"
"""The sample image kept out of training, to measure with; CC0."""

Array = npt.NDArray[np.uint8]


@functools.cache
def photograph(name: str) -> Image.Image:
    """Return a sample image of scikit-image, RGB.

    Raises:
        FileNotFoundError: scikit-image is not installed, or has no such image.
    """
    found = importlib.util.find_spec("skimage")  # found, not imported: its files are enough
    folder = Path((found.origin if found else None) or "skimage").parent / "data"
    path = next(folder.glob(f"{name}.*"), None)
    if path is None:
        raise FileNotFoundError(f"{name}: install scikit-image, whose data these are")
    with Image.open(path) as image:
        return image.convert("RGB")


class TrainingImages:
    """Draws batches of images, the same ones for the same seed.

    Args:
        seed: Seed of the random generator.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._photographs = [photograph(name) for name in PHOTOGRAPHS]

    def batch(self, count: int, height: int, width: int) -> torch.Tensor:
        """Draw images, count x 3 x height x width, float32, 0 to 1."""
        crops = [self._crop(height, width) for _ in range(count)]
        stacked = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
        return self._recoloured(stacked.float() / 255)

    def _crop(self, height: int, width: int) -> Array:
        if self._random.integers(3):
            return self._photographed(height, width)
        return np.asarray(drawn(self._random, height, width))

    def _photographed(self, height: int, width: int) -> Array:
        image = self._photographs[self._random.integers(len(self._photographs))]
        max_zoom = min(image.width / width, image.height / height)
        zoom = float(np.exp(self._random.uniform(np.log(0.4), np.log(max_zoom))))
        sides = (int(width * zoom), int(height * zoom))
        left = int(self._random.integers(image.width - sides[0] + 1))
        top = int(self._random.integers(image.height - sides[1] + 1))
        box = (left, top, left + sides[0], top + sides[1])
        crop = image.resize((width, height), Image.Resampling.BICUBIC, box, reducing_gap=2)
        return np.asarray(crop)[:, :: -1 if self._random.integers(2) else 1].copy()

    def _recoloured(self, images: torch.Tensor) -> torch.Tensor:
        """Mix the colours of half of the images, so that no object has one colour only."""
        for index in range(len(images)):
            if self._random.integers(2):
                order = self._random.permutation(3).copy()
                gain = self._random.uniform(0.6, 1.3, (3, 1, 1))
                images[index] = images[index][order] * torch.from_numpy(gain).float()
        return images.clamp(0, 1)


def drawn(random: np.random.Generator, height: int, width: int) -> Image.Image:
    """Draw an image of gradients and soft shapes, RGB."""
    corners = Image.fromarray(random.integers(0, 256, (2, 2, 3), dtype=np.uint8))
    image = corners.resize((width, height), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    for _ in range(random.integers(2, 9)):
        _shape(random, draw, height, width)
    return image.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 2))))


def _shape(random: np.random.Generator, draw: ImageDraw.ImageDraw, height: int, width: int) -> None:
    colour = tuple(int(level) for level in random.integers(0, 256, 3))
    xs, ys = random.uniform(-0.1, 1.1, 3) * width, random.uniform(-0.1, 1.1, 3) * height
    box = (min(xs), min(ys), max(xs), max(ys))
    if random.integers(4) == 0:
        draw.line(box, fill=colour, width=int(random.integers(1, max(2, width // 12))))
    elif random.integers(3) == 0:
        draw.polygon([*zip(xs.tolist(), ys.tolist(), strict=True)], fill=colour)
    elif random.integers(2) == 0:
        draw.rectangle(box, fill=colour)
    else:
        draw.ellipse(box, fill=colour)
