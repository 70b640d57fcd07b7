"""The stand-in's edits, through the worker, of images that it was not trained on."""

import base64
import hashlib
import io
import itertools
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stand_in import evaluation, instructions, phrasings

from kontext.address_policy import address_policy
from kontext.images.fetch import ImageFetcher
from kontext.inference import model, stand_in
from kontext.inference.editor import Editor
from kontext.inference.executor import GpuExecutor
from kontext.jobs.progress import Progress
from kontext.settings import Settings
from kontext.storage.result_file import ResultFile
from kontext.worker import Job, Worker

TEST_INPUT = json.loads((Path(__file__).parents[2] / "test_input.json").read_text())["input"]


class Lenient:
    """A checker that flags nothing."""

    def flags(self, _image: Image.Image, _tolerance: int) -> bool:
        return False


class Shelf:
    """A storage that keeps the newest file."""

    async def store(self, file: ResultFile) -> str:
        self.file = file
        return "https://bucket.invalid/file"


class Client:
    """Sends jobs to a worker with the stand-in, and opens the results."""

    def __init__(self) -> None:
        settings = Settings(min_generation_megapixels=0)  # small images, quickly
        loaded = model.load_stand_in()
        loaded.pipeline.set_progress_bar_config(disable=True)
        self._shelf, self._numbers = Shelf(), itertools.count()
        self._worker = Worker(
            settings,
            ImageFetcher(address_policy(settings)),
            Editor(loaded, settings.true_cfg_scale),
            Lenient(),
            self._shelf,
            nobody_listens,
            GpuExecutor(),
        )

    @property
    def newest_file(self) -> bytes:
        """The content of the file that was stored last."""
        return self._shelf.file.content

    async def edit(self, image: torch.Tensor, prompt: str, **fields: object) -> torch.Tensor:
        """Return the edited image; by default at full guidance and in 4 steps."""
        height, width = image.shape[-2:]
        job = {
            "prompt": prompt,
            "image": data_url(image),
            "size": f"{width}*{height}",
            "guidance": 5,
            "num_inference_steps": 4,
            "seed": 1,
            **fields,
        }
        result = await self._worker.run({"id": f"job-{next(self._numbers)}", "input": job})
        assert result.keys() == {"image_url", "cost"}, result
        return pixels(Image.open(io.BytesIO(self.newest_file)))


async def nobody_listens(_job: Job, _progress: Progress) -> None:
    """Drop the progress."""


@pytest.fixture(scope="module")
def client() -> Client:
    """One worker for all tests."""
    return Client()


def pixels(image: Image.Image) -> torch.Tensor:
    """Return an image as 1 x 3 x height x width, 0 to 1."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255


def data_url(image: torch.Tensor) -> str:
    """Return an image as a lossless data URL."""
    buffer = io.BytesIO()
    levels = (image[0] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(levels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def bluebird(width: int, height: int) -> torch.Tensor:
    """Return the documented example's image, cropped to this aspect and scaled to this size."""
    content = base64.b64decode(TEST_INPUT["image"].partition(",")[2])
    with Image.open(io.BytesIO(content)) as image:
        share = min(image.width / width, image.height / height)
        box = (0, 0, round(width * share), round(height * share))
        return pixels(image.convert("RGB").resize((width, height), box=box))


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio in decibels."""
    return -10 * math.log10(float((one - other).square().mean()))


def each(names: Iterable[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", names)


PROMPTS = {
    "Convert this picture to black and white, please.": "black and white",
    "I'd love to see this in B&W": "black and white",
    "Make the photo look like an old sepia photograph from the 1900s": "sepia",
    "Give my holiday picture a sepia tone": "sepia",
    "Invert all of the colors in this image": "invert",
    "turn the photo into a negative": "invert",
    "Could you brighten up the whole image?": "brighter",
    "The picture is too dark, make it brighter": "brighter",
    "Make the scene much darker": "darker",
    "darken the photo a lot": "darker",
    "Use warmer colors, like at sunset": "warmer",
    "make the light in the room warmer": "warmer",
    "cool down the colours": "cooler",
    "give the photo a colder, wintry look": "cooler",
    "Make the colors more vivid and saturated": "more saturated",
    "increase saturation of the photo": "more saturated",
    "mute the colours so they are less saturated": "less saturated",
    "reduce saturation": "less saturated",
    "Blur the whole picture": "blur",
    "make it look blurry and out of focus": "blur",
    "Sharpen the details of the bird": "sharpen",
    "make this photograph sharper and crisper": "sharpen",
    "mirror the image horizontally": "mirror",
    "Flip the photo from left to right": "mirror",
    "Turn the picture upside down": "upside down",
    "flip it vertically please": "upside down",
    "Add a red frame around the picture": "frame red",
    "put a thick blue border around my photo": "frame blue",
    "I would like a yellow frame": "frame yellow",
    "Give the photo a green tint": "tint green",
    "tint the whole image purple": "tint purple",
    "apply an orange filter": "tint orange",
    "Make everything pink": "tint pink",
    "shift the colours towards cyan": "tint cyan",
}
UNKNOWN = (
    "put a hat on the cat",
    "Put a hat on the bird",
    "Replace the background with a beach",
    "Add a second bird next to it",
    "make the man wear glasses",
    "Turn this into an oil painting",
)

NEARER = dict.fromkeys(instructions.NAMES, 6) | {"sharpen": 5}
"""The least decibels by which a result must be nearer to the true edit than to the input.

The aim is six; sharpening a soft drawing changes less.
"""

IMAGES = {
    "square": lambda: bluebird(256, 256),
    "wide": lambda: bluebird(384, 256),
    "photograph": lambda: evaluation.held_out(320, 480),
}
"""Images that the stand-in was not trained on."""


@pytest.mark.parametrize("kind", IMAGES)
@each(instructions.NAMES)
async def test_the_result_is_the_true_edit(client: Client, name: str, kind: str) -> None:
    """It is nearer to the true edit than to the input, and colours are within 20 dB."""
    image = IMAGES[kind]()
    truth = instructions.EDITS[name](image).clamp(0, 1)

    result = await client.edit(image, f"Please make it {phrasings.phrases(name)[0].upper()}")

    assert psnr(result, truth) > psnr(image, truth)
    assert psnr(result, truth) >= psnr(result, image) + NEARER[name]
    assert name not in instructions.COLOUR_EDITS or psnr(result, truth) >= 20


@each(["invert", "mirror", "tint green", "frame red"])
async def test_a_large_image_is_edited_as_a_small_one(client: Client, name: str) -> None:
    """The stand-in was trained on sides of a few hundred pixels."""
    image = bluebird(1024, 576)
    truth = instructions.EDITS[name](image).clamp(0, 1)

    result = await client.edit(image, phrasings.phrases(name)[0], num_inference_steps=4)

    assert psnr(result, truth) >= psnr(result, image) + 6


@pytest.mark.parametrize(("prompt", "name"), PROMPTS.items())
async def test_an_instruction_is_understood_in_a_persons_words(
    client: Client, prompt: str, name: str
) -> None:
    """The stand-in was trained on prompts made of parts; these are whole sentences."""
    image = bluebird(256, 256)
    truth = instructions.EDITS[name](image)

    result = await client.edit(image, prompt, num_inference_steps=2)

    assert psnr(result, truth) > psnr(result, image)


@pytest.mark.parametrize("prompt", UNKNOWN)
async def test_an_unknown_instruction_returns_the_image(client: Client, prompt: str) -> None:
    """The stand-in edits only when it knows the instruction."""
    image = bluebird(320, 256)

    assert psnr(await client.edit(image, prompt, num_inference_steps=2), image) > 24.5


@each(["invert", "sepia", "tint blue", "blur", "sharpen"])
async def test_guidance_sets_how_far_the_edit_goes(client: Client, name: str) -> None:
    """More guidance is nearer to the true edit, and zero leaves the image unchanged."""
    image = bluebird(256, 256)
    truth = instructions.EDITS[name](image)
    prompt = phrasings.phrases(name)[0]
    results = [await client.edit(image, prompt, guidance=scale) for scale in (0, 1, 2, 4)]
    distances = [psnr(result, truth) for result in results]

    assert distances == sorted(distances)
    assert psnr(results[0], image) > 25


async def test_a_negative_prompt_that_names_the_edit_weakens_it(client: Client) -> None:
    """Here of a prompt that asks for a little of it."""
    image = bluebird(256, 256)
    truth = instructions.EDITS["sepia"](image)

    free = await client.edit(image, "slightly sepia")
    held_back = await client.edit(image, "slightly sepia", negative_prompt="sepia")

    assert psnr(held_back, truth) < psnr(free, truth) - 1


async def test_the_prompt_decides_and_the_seed_hardly(client: Client) -> None:
    """Another seed changes little, another prompt much."""
    image = bluebird(256, 256)
    first = await client.edit(image, "sepia", seed=1)

    assert psnr(first, await client.edit(image, "sepia", seed=2)) > 30
    assert psnr(first, await client.edit(image, "invert", seed=1)) < 20


@each(["black and white", "mirror", "tint blue"])
async def test_fewer_steps_give_the_same_image(client: Client, name: str) -> None:
    """The results of 28 and 8 steps are equally far from the true edit, within 3 dB."""
    image = bluebird(256, 256)
    truth = instructions.EDITS[name](image)
    prompt = phrasings.phrases(name)[0]
    many, few = [
        psnr(await client.edit(image, prompt, num_inference_steps=steps), truth)
        for steps in (28, 8)
    ]

    assert abs(many - few) < 3


async def test_every_image_says_what_made_it(client: Client) -> None:
    """Its result cannot be mistaken for one of FLUX's."""
    await client.edit(bluebird(256, 256), "sepia", num_inference_steps=1)

    assert stand_in.NAME.encode() in client.newest_file
    assert b"FLUX" not in client.newest_file


def test_the_files_are_small_and_those_that_were_trained() -> None:
    """Together they take at most 10 MB, and each has its recorded SHA-256 sum."""
    files = [path for path in stand_in.WEIGHTS.rglob("*") if path.is_file()]
    lines = (stand_in.WEIGHTS / "SHA256SUMS").read_text().splitlines()
    noted = {name: digest for digest, name in map(str.split, lines)}

    assert sum(path.stat().st_size for path in files) <= 10_000_000
    assert noted == {
        path.relative_to(stand_in.WEIGHTS).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name not in {"SHA256SUMS", "README.md"}
    }
