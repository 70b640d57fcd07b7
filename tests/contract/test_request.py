"""The documented `input`, field by field."""

from typing import Any

import pytest

from kontext.contract.fields import extension_fields, limited
from kontext.contract.request import (
    MAX_PROMPT_LENGTH,
    EditRequest,
    unknown_keys,
)
from kontext.contract.size import SideLimits, Size
from kontext.errors import InvalidRequest

MINIMAL = {"prompt": "make it blue", "image": "https://example.com/bluebird.png"}


def sentence(**fields: object) -> str:
    """Return the refusal of a request with the required fields and `fields`."""
    with pytest.raises(InvalidRequest) as refused:
        EditRequest.parse({**MINIMAL, **fields})
    return str(refused.value)


def test_the_documented_defaults() -> None:
    """A request with only the required fields gets every documented default."""
    request = EditRequest.parse(MINIMAL)

    assert request.model_dump(exclude={"prompt", "image"}) == {
        "task": "edit",
        "negative_prompt": "",
        "size": "1024*1024",
        "num_inference_steps": 28,
        "guidance": 2,
        "seed": -1,
        "output_format": "png",
        "enable_safety_checker": True,
        "output_quality": 95,
        "safety_tolerance": 2,
        "aspect_ratio": None,
    }


def test_null_means_the_default() -> None:
    """An optional field that is null gets its default, as if it were absent."""
    optional = dict.fromkeys(EditRequest.model_fields.keys() - MINIMAL.keys())

    assert EditRequest.parse({**MINIMAL, **optional}) == EditRequest.parse(MINIMAL)


@pytest.mark.parametrize("field", MINIMAL)
def test_required_fields(field: str) -> None:
    """The sentence names a required field that is null."""
    assert sentence(**{field: None}) == f"{field} is required"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_inference_steps", 1),
        ("num_inference_steps", 50),
        ("num_inference_steps", 28.0),
        ("guidance", 0),
        ("guidance", 10),
        ("guidance", 2.5),
        ("seed", -1),
        ("seed", 0),
        ("seed", 2**63 - 1),
        ("size", "256*2368"),
        ("size", "1472*1140"),
        ("size", "match_input"),
        ("output_format", "jpeg"),
        ("output_format", "webp"),
        ("output_quality", 1),
        ("output_quality", 100),
        ("aspect_ratio", "21:9"),
        ("aspect_ratio", "9:21"),
        ("enable_safety_checker", False),
        ("image", "data:image/png;base64,AAAA"),
        ("image", "HTTPS://EXAMPLE.COM/A"),
        ("negative_prompt", ""),
        ("prompt", "x" * MAX_PROMPT_LENGTH),
    ],
)
def test_accepted(field: str, value: object) -> None:
    """Every value at the edge of its range is accepted unchanged."""
    assert getattr(EditRequest.parse({**MINIMAL, field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("num_inference_steps", 80, "must be between 1 and 50, got 80"),
        ("num_inference_steps", 0, "must be between 1 and 50, got 0"),
        ("num_inference_steps", "28", 'must be an integer, got "28"'),
        ("num_inference_steps", True, "must be an integer, got true"),
        ("num_inference_steps", 28.5, "must be an integer, got 28.5"),
        ("guidance", 10.1, "must be between 0.0 and 10.0, got 10.1"),
        ("guidance", -1, "must be between 0.0 and 10.0, got -1"),
        ("guidance", float("nan"), "must be a finite number, got NaN"),
        ("guidance", "2", 'must be a number, got "2"'),
        ("guidance", False, "must be a number, got false"),
        ("seed", -2, "must be between -1 and 9223372036854775807, got -2"),
        ("seed", 2**63, "must be between -1 and 9223372036854775807, got 9223372036854775808"),
        ("size", "1024x1024", 'must be "width*height" or "match_input", got "1024x1024"'),
        ("size", "255*1024", 'must have sides between 256 and 2368, got "255*1024"'),
        ("size", "4096*4096", 'must have sides between 256 and 2368, got "4096*4096"'),
        ("size", 1024, "must be a string, got 1024"),
        ("output_format", "gif", 'must be png or jpeg or webp, got "gif"'),
        ("task", "draw", 'must be edit or generate, got "draw"'),
        ("task", 1, "must be a string, got 1"),
        ("safety_tolerance", 7, "must be between 0 and 6, got 7"),
        ("output_quality", 0, "must be between 1 and 100, got 0"),
        ("output_quality", 95.5, "must be an integer, got 95.5"),
        ("aspect_ratio", "22:9", 'must be "width:height" between 21:9 and 9:21, got "22:9"'),
        ("aspect_ratio", "16*9", 'must be "width:height" between 21:9 and 9:21, got "16*9"'),
        ("aspect_ratio", "0:9", 'must be "width:height" between 21:9 and 9:21, got "0:9"'),
        ("aspect_ratio", "16:9\n", 'must be "width:height" between 21:9 and 9:21, got "16:9\\n"'),
        ("aspect_ratio", 1.5, "must be a string, got 1.5"),
        ("output_format", "PNG", 'must be png or jpeg or webp, got "PNG"'),
        ("enable_safety_checker", 1, "must be true or false, got 1"),
        ("enable_safety_checker", "true", 'must be true or false, got "true"'),
        ("prompt", "", "must not be blank, got a string of length 0"),
        ("prompt", " \n\t", "must not be blank, got a string of length 3"),
        ("prompt", ["x"], "must be a string, got an array"),
        ("prompt", "\ud800", "must be valid Unicode, got a string of length 1"),
        ("prompt", "x" * 10_001, "must be at most 10000 characters long, got a string of length"),
        ("negative_prompt", 0, "must be a string, got 0"),
        ("image", "/etc/passwd", 'must be an http, https or data URL, got "/etc/passwd"'),
        ("image", "file:///etc/passwd", 'must be an http, https or data URL, got "file:..."'),
        ("image", {"url": "x"}, "must be a string, got an object"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_refused(field: str, value: object, expected: str) -> None:
    """A violation names the field, the rule and the value."""
    assert sentence(**{field: value}).startswith(f"{field} {expected}")


def test_a_number_of_too_many_digits() -> None:
    """JSON limits no number; Python refuses to write one of more than 4300 digits."""
    assert sentence(seed=10**5000).endswith("got a number of too many digits")
    assert sentence(guidance=10**400).startswith("guidance must be between 0.0 and 10.0, got 1000")


def test_every_violation_in_one_sentence() -> None:
    """Several violations are joined by '; ', in the document's order."""
    assert sentence(num_inference_steps=80, seed=-5, output_format="gif") == (
        "num_inference_steps must be between 1 and 50, got 80; "
        "seed must be between -1 and 9223372036854775807, got -5; "
        'output_format must be png or jpeg or webp, got "gif"'
    )


@pytest.mark.parametrize("data", [None, "x", 1, [], [MINIMAL], True])
def test_input_must_be_an_object(data: object) -> None:
    """The caller reads what `input` must be."""
    with pytest.raises(InvalidRequest, match=r"^input must be an object, got "):
        EditRequest.parse(data)


def test_secrets_of_a_value_are_not_repeated() -> None:
    """An error repeats neither a prompt nor the credentials and query of a URL."""
    refused = sentence(image="ftp://me:secret@host/?token=secret", prompt=["secret"])

    assert "secret" not in refused


def test_long_values_are_cut() -> None:
    """An error is one short line, however long the value is."""
    refused = sentence(output_format="x\n" * 10**6)

    assert len(refused) < 200
    assert "\n" not in refused


def test_unknown_keys_are_ignored_and_named() -> None:
    """Options that Runpod's AI SDK leaks into `input` do no harm and can be logged."""
    leaked: dict[str, Any] = {**MINIMAL, "maxPollAttempts": 60, "pollIntervalMillis": 5000}

    assert EditRequest.parse(leaked) == EditRequest.parse(MINIMAL)
    assert unknown_keys(leaked) == ['"maxPollAttempts"', '"pollIntervalMillis"']
    assert unknown_keys(MINIMAL) == []
    assert unknown_keys("not an object") == []


def test_a_deployers_limits_replace_the_default_ones() -> None:
    """The sentence names the limits that the deployer set."""
    with pytest.raises(InvalidRequest, match="between 512 and 1024"):
        EditRequest.parse({**MINIMAL, "size": "256*256"}, SideLimits(512, 1024))


def test_match_input_takes_the_aspect_of_the_image() -> None:
    """The output has the input's aspect at about one megapixel."""
    request = EditRequest.parse({**MINIMAL, "size": "match_input"})

    assert request.output_size(Size(1920, 1080)) == Size(1360, 768)
    with pytest.raises(InvalidRequest, match=r"got 3232\*320 for an image of 10000\*1000"):
        request.output_size(Size(10_000, 1000))


def test_an_explicit_size_is_what_it_says() -> None:
    """It does not depend on the input image."""
    request = EditRequest.parse({**MINIMAL, "size": "1472*1140"})

    assert request.output_size(Size(10_000, 16)) == Size(1472, 1140)


def test_an_image_is_decoded_for_the_size_that_is_generated() -> None:
    """A result of 256*256 is generated larger, and its input is decoded for that size."""
    assert EditRequest.parse({**MINIMAL, "size": "256*256"}).pixels() == 510 * 510
    assert EditRequest.parse({**MINIMAL, "size": "match_input"}).pixels() is None


@pytest.mark.parametrize(
    ("ratio", "size"),
    [("1:1", "1024*1024"), ("16:9", "1360*768"), ("9:16", "768*1360"), ("21:9", "1568*672")],
)
def test_an_aspect_ratio_takes_the_place_of_size(ratio: str, size: str) -> None:
    """It stands for a size on the grid, of about one megapixel, whatever the input's size."""
    request = EditRequest.parse({**MINIMAL, "aspect_ratio": ratio})

    assert str(request.output_size(Size(300, 900))) == size
    assert request.pixels() == Size.parse(size).area


def test_an_aspect_ratio_and_a_size_exclude_each_other() -> None:
    """The sentence says so, beside what else is wrong."""
    refused = sentence(aspect_ratio="16:9", size="512*512", seed="x")

    assert refused.startswith("aspect_ratio and size exclude each other; give one of them; seed ")


def test_an_aspect_ratio_obeys_the_limits_of_sides() -> None:
    """A deployment with narrow limits refuses what it could not deliver."""
    with pytest.raises(InvalidRequest, match=r"aspect_ratio needs sides between 768 and 1024"):
        EditRequest.parse({**MINIMAL, "aspect_ratio": "21:9"}, SideLimits(768, 1024))


def test_a_deployment_can_allow_more_steps_and_guidance() -> None:
    """The wider ranges hold, and the sentences name them; all else stays as documented."""
    wide = limited(num_inference_steps=100, guidance=24)
    request = wide.parse({**MINIMAL, "num_inference_steps": 100, "guidance": 24})
    with pytest.raises(InvalidRequest) as refused:
        wide.parse({**MINIMAL, "num_inference_steps": 101, "guidance": 25, "seed": -2})

    assert (request.num_inference_steps, request.guidance) == (100, 24)
    assert str(refused.value) == (
        "num_inference_steps must be between 1 and 100, got 101; "
        "guidance must be between 0.0 and 24, got 25; "
        "seed must be between -1 and 9223372036854775807, got -2"
    )


def test_extensions_have_no_effect_on_a_documented_request() -> None:
    """They are optional, and their defaults are what a documented request gets."""
    fields = {name: EditRequest.model_fields[name] for name in extension_fields()}

    assert fields.keys() == {"task", "output_quality", "safety_tolerance", "aspect_ratio"}
    assert not any(field.is_required() for field in fields.values())


def test_generating_needs_no_image() -> None:
    """The prompt alone suffices; an input image would have no effect, so it is refused."""
    prompt = {"prompt": "a cloud", "task": "generate"}
    request = EditRequest.parse({**prompt, "size": "512*768"})
    with pytest.raises(InvalidRequest) as refused:
        EditRequest.parse({**MINIMAL, "task": "generate", "size": "match_input"})

    assert request.image is None
    assert request.output_size(None) == Size(512, 768)
    assert EditRequest.parse(prompt).output_size(None) == Size(1024, 1024)
    assert str(refused.value) == (
        'image must be absent when task is generate, got "https:..."; '
        'size must be "width*height" when task is generate, got "match_input"'
    )
