"""List ways to name each instruction, and draw prompts made of them.

Knows the instructions' names, not what they do.
"""

import re
from collections.abc import Mapping

import numpy as np

from . import instructions

_PHRASES: Mapping[str, tuple[str, ...]] = {
    "black and white": (
        "black and white", "monochrome", "greyscale", "grayscale", "grey", "gray",
        "without colour", "no colours", "remove the colour", "remove all colors", "desaturate",
        "desaturated", "colourless", "black white", "mono", "bw", "b & w", "grey scale",
    ),
    "sepia": (
        "sepia", "sepia tone", "sepia toned", "old photograph", "old photo", "vintage",
        "antique brown", "like an old brown photograph",
    ),
    "invert": (
        "invert", "inverted", "invert the colours", "inverted colors", "negative",
        "photographic negative", "colour negative", "reverse the colours", "opposite colours",
    ),
    "brighter": (
        "brighter", "brighten", "bright", "lighter", "lighten", "more light", "more brightness",
        "increase the brightness", "raise the exposure", "brighten up", "too dark",
        "too dark , make it brighter", "not so dark",
    ),
    "darker": (
        "darker", "darken", "dark", "dimmer", "dim", "less light", "less bright",
        "less brightness", "reduce the brightness", "decrease the brightness",
        "lower the exposure", "too bright", "too bright , make it darker", "not so bright",
    ),
    "warmer": (
        "warmer", "warm", "warm light", "warm colours", "sunset light", "golden hour",
        "warmer colors", "warmer white balance", "warm up", "warm up the colours",
    ),
    "cooler": (
        "cooler", "cool", "colder", "cold", "cool colours", "colder light", "wintry light",
        "icy light", "cooler white balance", "cool down", "cool down the colours",
    ),
    "more saturated": (
        "more saturated", "saturate", "more saturation", "more colourful", "more colorful",
        "vivid", "more vivid", "vivid colours", "vibrant", "more vibrant", "colourful",
        "stronger colours", "increase the saturation", "more colour", "intense colours",
        "boost the colours",
    ),
    "less saturated": (
        "less saturated", "less saturation", "less colourful", "less colorful", "muted",
        "muted colours", "pale", "paler colours", "faded colours", "washed out", "weaker colours",
        "decrease the saturation", "reduce the saturation", "less colour", "less vivid",
        "less vibrant",
    ),
    "blur": (
        "blur", "blurred", "blurry", "blurrier", "out of focus", "soft focus", "unfocused",
        "not in focus", "soften", "softer", "less sharp", "defocus",
    ),
    "sharpen": (
        "sharpen", "sharper", "sharp", "crisp", "crisper", "in focus", "more detail",
        "more detailed", "enhance the details", "clearer details", "less blurry", "more sharp",
    ),
    "mirror": (
        "mirror", "mirrored", "flip horizontally", "horizontal flip", "flipped left to right",
        "flip left and right", "swap left and right", "mirror image", "horizontal mirror",
        "reflect horizontally", "flip sideways",
    ),
    "upside down": (
        "upside down", "flip vertically", "vertical flip", "top to bottom", "head over heels",
        "swap top and bottom", "flip top and bottom", "turn on its head", "reflect vertically",
        "vertical mirror", "mirror vertically", "upside-down", "flip upside down",
    ),
}  # fmt: skip
_TINTS = (
    "tint {0}", "{0} tint", "tinted {0}", "{0} tone", "{0} toned", "{0} filter", "more {0}",
    "{0} cast", "tint towards {0}", "{0}", "{0} light", "shade of {0}", "{0}ish", "colour {0}",
)  # fmt: skip
_FRAMES = (
    "{0} frame", "frame {0}", "{0} border", "border {0}", "frame in {0}", "framed in {0}",
    "border of {0}", "{0} edge around", "{0} frame around", "{0} coloured frame",
    "bordered in {0}", "frame which is {0}", "{0} picture frame",
)  # fmt: skip
_OPENINGS = (
    "", "", "", "make it", "make this", "make the picture", "please make the photo", "turn it",
    "turn this image into", "convert to", "can you make it", "i want it", "change it to",
    "apply a", "add a", "give it a", "put a", "the", "please", "let it be", "edit the image to be",
    "show it", "render it", "it should be", "could you", "now", "make everything", "use a",
)  # fmt: skip
_OBJECTS = (
    "", "", "", "the picture", "this photo", "the image", "the photograph", "it", "the cat",
    "the scene", "my portrait", "the whole thing", "the landscape", "everything", "the dog",
    "for me", "please", "thanks", "around the picture", "in style", "overall", "on it", "version",
    "the {junk}", "the {junk} {junk}", "with {junk}", "of a {junk}",
)  # fmt: skip
_UNKNOWN = (
    "", "a {junk}", "add a {junk}", "replace the {junk} with a {junk}", "make a {junk} {junk}",
    "remove the {junk}", "{junk}", "{junk} {junk} {junk}", "give the {junk} a {junk}",
    "make it {junk}", "the {junk} should be {junk}", "add a hat", "add a cat", "as a painting",
    "turn it into a {junk}", "keep it as it is", "leave it as it is", "do nothing", "no change",
    "make the picture", "edit the photo", "change the {junk}", "a photo of a {junk}",
)  # fmt: skip
_DEGREES = ("slightly", "a little", "a bit", "somewhat", "a touch", "half", "subtly")
_JUNK = re.findall(
    r"\w+",
    """
    dog cat house tree car person woman man child bird flower mountain river sea beach city street
    window door table chair hat shirt dress shoe glasses beard hair face hand eye robot dragon
    castle bridge boat train plane bicycle horse cow sheep lion tiger bear elephant fish snow rain
    cloud sky sun moon star garden forest field road wall floor ceiling lamp book cup plate bottle
    apple banana bread cake cheese pizza coffee tea water wine beer phone computer screen keyboard
    music guitar piano drum ball game toy doll king queen knight wizard soldier doctor teacher
    painting drawing sketch cartoon anime watercolour oil style studio portrait happy sad angry
    young small big tall wooden metal glass plastic paper stone wearing standing sitting running
    smiling jumping flying swimming reading text sign logo letters background foreground left
    right behind next under above coat jacket scarf bag ring crown sword shield fire smoke
    """,
)


def phrases(name: str) -> tuple[str, ...]:
    """Return the ways to name an instruction."""
    kind, _, colour = name.rpartition(" ")
    forms = {"tint": _TINTS, "frame": _FRAMES}.get(kind)
    return tuple(form.format(colour) for form in forms) if forms else _PHRASES[name]


def prompt(random: np.random.Generator, name: str | None, slightly: bool = False) -> str:
    """Draw a prompt.

    Args:
        random: The generator to draw from.
        name: The instruction asked for; None for a prompt that names none.
        slightly: Whether only half of the edit is asked for.
    """
    degree = str(random.choice(_DEGREES)) + " " if slightly else ""
    if name is None:
        return degree + _filled(random, str(random.choice(_UNKNOWN)))
    parts = [str(random.choice(_OPENINGS)), degree + _named(random, name)]
    parts.insert(int(random.integers(3)), _filled(random, str(random.choice(_OBJECTS))))
    if random.integers(7) == 0:
        random.shuffle(parts)
    text = " ".join(part for part in parts if part)
    return text + str(random.choice(("", "", ".", "!")))


def _named(random: np.random.Generator, name: str) -> str:
    """Draw a way to name an instruction, in one of five cases two."""
    ways = random.choice(phrases(name), 2)
    if random.integers(5):
        return str(ways[0])
    return str(random.choice((" and ", " , ", " "))).join(ways)


def words() -> list[str]:
    """Return every word of every phrasing, sorted, for the tokenizers."""
    texts = ["and ,", *_OPENINGS, *_OBJECTS, *_UNKNOWN, *_DEGREES, *_JUNK]
    texts += [phrase for name in instructions.NAMES for phrase in phrases(name)]
    cleaned = " ".join(texts).lower().replace("{junk}", " ")
    return sorted(set(cleaned.replace("-", " - ").split()))


def _filled(random: np.random.Generator, text: str) -> str:
    while "{junk}" in text:
        text = text.replace("{junk}", _junk(random), 1)
    return text


def _junk(random: np.random.Generator) -> str:
    if random.integers(5):
        return str(random.choice(_JUNK))
    letters = random.choice(list("abcdefghijklmnopqrstuvwxyz"), int(random.integers(3, 9)))
    return "".join(letters)
