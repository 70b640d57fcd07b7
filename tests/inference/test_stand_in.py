"""What the stand-in promises, through the worker, on pictures that training never saw."""

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
from kontext.storage.base import StoredFile
from kontext.worker import Job, Worker

TEST_INPUT = json.loads((Path(__file__).parents[2] / "test_input.json").read_text())["input"]


class Lenient:
    """Passes everything."""

    def flags(self, _picture: Image.Image) -> bool:
        return False


class Shelf:
    """Keeps the newest file."""

    async def store(self, file: StoredFile) -> str:
        self.file = file
        return "https://bucket.invalid/file"


class Client:
    """Sends jobs to a worker with the stand-in, and opens what comes back."""

    def __init__(self) -> None:
        settings = Settings(min_generation_megapixels=0)  # small pictures, quickly
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
        """What was stored last."""
        return self._shelf.file.content

    async def edit(self, picture: torch.Tensor, prompt: str, **fields: object) -> torch.Tensor:
        """Return the edited picture; at full guidance and in 8 steps, if nothing else is asked."""
        height, width = picture.shape[-2:]
        job = {
            "prompt": prompt,
            "image": data_url(picture),
            "size": f"{width}*{height}",
            "guidance": 5,
            "num_inference_steps": 8,
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
    """One worker for all."""
    return Client()


def pixels(picture: Image.Image) -> torch.Tensor:
    """Return a picture as 1 x 3 x height x width, 0 to 1."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None].float() / 255


def data_url(picture: torch.Tensor) -> str:
    """Return a picture as an `image` of the contract, lossless."""
    buffer = io.BytesIO()
    levels = (picture[0] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(levels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def bluebird(width: int, height: int) -> torch.Tensor:
    """Return the part of the documented example's picture that has this shape, at this size."""
    content = base64.b64decode(TEST_INPUT["image"].partition(",")[2])
    with Image.open(io.BytesIO(content)) as picture:
        share = min(picture.width / width, picture.height / height)
        box = (0, 0, round(width * share), round(height * share))
        return pixels(picture.convert("RGB").resize((width, height), box=box))


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
"""Decibels by which a result is at least nearer to the true edit than to the input.

Six is the aim; a soft drawing has little to sharpen.
"""

PICTURES = {
    "square": lambda: bluebird(256, 256),
    "wide": lambda: bluebird(384, 256),
    "photograph": lambda: evaluation.held_out(320, 480),
}
"""None of them did training see."""


@pytest.mark.parametrize("kind", PICTURES)
@each(instructions.NAMES)
async def test_the_result_is_the_true_edit(client: Client, name: str, kind: str) -> None:
    """It is nearer to it than the input was, and than to the input; colours are within 20 dB."""
    picture = PICTURES[kind]()
    truth = instructions.EDITS[name](picture).clamp(0, 1)

    result = await client.edit(picture, f"Please make it {phrasings.phrases(name)[0].upper()}")

    assert psnr(result, truth) > psnr(picture, truth)
    assert psnr(result, truth) >= psnr(result, picture) + NEARER[name]
    assert name not in instructions.COLOUR_EDITS or psnr(result, truth) >= 20


@each(["invert", "mirror", "tint green", "frame red"])
async def test_a_large_picture_is_edited_as_a_small_one(client: Client, name: str) -> None:
    """Training saw sides of a few hundred pixels."""
    picture = bluebird(1024, 576)
    truth = instructions.EDITS[name](picture).clamp(0, 1)

    result = await client.edit(picture, phrasings.phrases(name)[0], num_inference_steps=4)

    assert psnr(result, truth) >= psnr(result, picture) + 6


@pytest.mark.parametrize(("prompt", "name"), PROMPTS.items())
async def test_an_instruction_is_understood_in_a_persons_words(
    client: Client, prompt: str, name: str
) -> None:
    """Training put its prompts together from lists of parts; these are sentences."""
    picture = bluebird(256, 256)
    truth = instructions.EDITS[name](picture)

    result = await client.edit(picture, prompt, num_inference_steps=2)

    assert psnr(result, truth) > psnr(result, picture)


@pytest.mark.parametrize("prompt", UNKNOWN)
async def test_an_unknown_instruction_returns_the_picture(client: Client, prompt: str) -> None:
    """Nothing happens that nobody asked for in words that the stand-in knows."""
    picture = bluebird(320, 256)

    assert psnr(await client.edit(picture, prompt, num_inference_steps=2), picture) > 24.5


@each(["invert", "sepia", "tint blue", "blur", "sharpen"])
async def test_guidance_sets_how_far_the_edit_goes(client: Client, name: str) -> None:
    """More guidance is nearer to the true edit, and none leaves the picture as it is."""
    picture = bluebird(256, 256)
    truth = instructions.EDITS[name](picture)
    prompt = phrasings.phrases(name)[0]
    results = [await client.edit(picture, prompt, guidance=scale) for scale in (0, 1, 2, 4)]
    distances = [psnr(result, truth) for result in results]

    assert distances == sorted(distances)
    assert psnr(results[0], picture) > 25


async def test_a_negative_prompt_that_names_the_edit_weakens_it(client: Client) -> None:
    """Where the prompt asks for some of it; prompts that are equal guide nowhere."""
    picture = bluebird(256, 256)
    truth = instructions.EDITS["sepia"](picture)

    free = await client.edit(picture, "slightly sepia")
    held_back = await client.edit(picture, "slightly sepia", negative_prompt="sepia")

    assert psnr(held_back, truth) < psnr(free, truth) - 1


async def test_the_prompt_decides_and_the_seed_hardly(client: Client) -> None:
    """Another seed changes little, another prompt much."""
    picture = bluebird(256, 256)
    first = await client.edit(picture, "sepia", seed=1)

    assert psnr(first, await client.edit(picture, "sepia", seed=2)) > 30
    assert psnr(first, await client.edit(picture, "invert", seed=1)) < 20


@each(["black and white", "mirror", "tint blue"])
async def test_fewer_steps_give_the_same_picture(client: Client, name: str) -> None:
    """28 and 8 steps are within 3 dB of each other in their distance from the true edit."""
    picture = bluebird(256, 256)
    truth = instructions.EDITS[name](picture)
    prompt = phrasings.phrases(name)[0]
    many, few = [
        psnr(await client.edit(picture, prompt, num_inference_steps=steps), truth)
        for steps in (28, 8)
    ]

    assert abs(many - few) < 3


async def test_every_picture_says_what_made_it(client: Client) -> None:
    """It cannot be taken for one of FLUX's."""
    await client.edit(bluebird(256, 256), "sepia", num_inference_steps=1)

    assert stand_in.NAME.encode() in client.newest_file
    assert b"FLUX" not in client.newest_file


def test_the_files_are_small_and_those_that_were_trained() -> None:
    """All of them together take 10 MB or less, and each has the sum that is noted."""
    files = [path for path in stand_in.WEIGHTS.rglob("*") if path.is_file()]
    lines = (stand_in.WEIGHTS / "SHA256SUMS").read_text().splitlines()
    noted = {name: digest for digest, name in map(str.split, lines)}

    assert sum(path.stat().st_size for path in files) <= 10_000_000
    assert noted == {
        path.relative_to(stand_in.WEIGHTS).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name not in {"SHA256SUMS", "README.md"}
    }
