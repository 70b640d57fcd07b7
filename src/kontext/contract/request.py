"""The documented `input` of a job: names, JSON types, ranges, defaults, and what breaks them.

`EditRequest` is the one place where the contract's fields are written down; the table in
docs/contract.md and the tests are derived from it. It knows nothing of images, networks or GPUs.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Self

from annotated_types import Ge, Le, MaxLen
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from kontext.contract.output_format import OutputFormat
from kontext.contract.size import DEFAULT_AREAS, DEFAULT_SIDES, AreaLimits, SideLimits, Size
from kontext.errors import InvalidRequest

MATCH_INPUT = "match_input"
LONGEST_PROMPT = 10_000
"""Characters. T5 reads 512 tokens, far fewer; the rest would only cost time to tokenise."""

_SHOWN = 40
"""Characters of a caller's value that an error repeats."""


def _either(words: Iterable[str]) -> str:
    return " or ".join(words)


def _broken(rule: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{rule}", {"rule": rule})


def _integer(value: object) -> int:
    """Accept 28 and 28.0, as JSON does not tell them apart; refuse true, "28", NaN and 28.5."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise _broken("must be an integer")


def _number(value: object) -> float:
    """Accept any finite JSON number; refuse true, "2" and NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _broken("must be a number")
    if not -math.inf < value < math.inf:
        raise _broken("must be a finite number")
    return value


def _text(value: object) -> object:
    """Refuse the lone surrogates that JSON can carry and no tokenizer can read."""
    if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
        raise _broken("must be valid Unicode")
    return value


def _format_name(value: object) -> str:
    """Refuse what is no string: an enum raises `RecursionError` on a deeply nested list."""
    if not isinstance(value, str):
        raise _broken(f"must be {_either(OutputFormat)}")
    return value


Integer = Annotated[int, BeforeValidator(_integer)]
Number = Annotated[float, BeforeValidator(_number)]
Text = Annotated[StrictStr, BeforeValidator(_text)]


class EditRequest(BaseModel):
    """One edit, as Runpod documents it for its public FLUX.1 Kontext [dev] endpoint."""

    model_config = ConfigDict(frozen=True, extra="ignore", validate_default=True)

    prompt: Text = Field(
        description="What to change, in words.", min_length=1, max_length=LONGEST_PROMPT
    )
    image: Text = Field(
        description="The image to edit: an http(s) URL, or a `data:` URL.", repr=False
    )
    negative_prompt: Text = Field(
        default="",
        description="What to keep out. Not empty: true classifier-free guidance, twice the time.",
        max_length=LONGEST_PROMPT,
    )
    size: StrictStr = Field(
        default="1024*1024",
        description="`width*height` in pixels; the extension `match_input` takes the aspect of "
        "the input image at about one megapixel.",
    )
    num_inference_steps: Integer = Field(
        default=28, ge=1, le=50, description="Denoising steps; more take longer."
    )
    guidance: Number = Field(
        default=2, ge=0.0, le=10.0, description="Distilled guidance scale: how closely to follow."
    )
    seed: Integer = Field(
        default=-1, ge=-1, le=2**63 - 1, description="The noise to start from; -1 draws one."
    )
    output_format: Annotated[OutputFormat, BeforeValidator(_format_name)] = Field(
        default=OutputFormat.PNG,
        description=f"{_either(f'`{name}`' for name in OutputFormat)}: file format of the result.",
    )
    enable_safety_checker: StrictBool = Field(
        default=True, description="Whether a result that is not fit to be seen fails the job."
    )

    @classmethod
    def parse(cls, data: object, sides: SideLimits = DEFAULT_SIDES) -> Self:
        """Read a job's `input`; null means the default, unknown keys are ignored.

        Raises:
            InvalidRequest: One sentence with every violation, joined by '; '.
        """
        if not isinstance(data, Mapping):
            raise InvalidRequest(f"input must be an object, got {_shown(data)}")
        given = {str(key): value for key, value in data.items() if value is not None}
        try:
            return cls.model_validate(given, context=sides)
        except ValidationError as error:
            raise InvalidRequest("; ".join(map(_sentence, error.errors()))) from None

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, prompt: str) -> str:
        if not prompt.strip():
            raise _broken("must not be blank")
        return prompt

    @field_validator("image")
    @classmethod
    def _has_known_scheme(cls, image: str) -> str:
        if image[:8].lower().startswith(("http://", "https://", "data:")):
            return image
        raise _broken("must be an http, https or data URL")

    @field_validator("size")
    @classmethod
    def _within_sides(cls, size: str, info: ValidationInfo) -> str:
        if size == MATCH_INPUT:
            return size
        sides: SideLimits = info.context or DEFAULT_SIDES
        try:
            admitted = sides.admit(Size.parse(size))
        except ValueError:
            raise _broken('must be "width*height" or "match_input"') from None
        if not admitted:
            raise _broken(f"must have sides between {sides.shortest} and {sides.longest}")
        return size

    def pixels(self, areas: AreaLimits = DEFAULT_AREAS) -> int | None:
        """Return the area to generate; for `match_input` unknown before the image is seen."""
        return None if self.size == MATCH_INPUT else areas.generated(Size.parse(self.size)).area

    def output_size(self, source: Size, sides: SideLimits = DEFAULT_SIDES) -> Size:
        """Return the pixels to deliver for an input image of size `source`.

        Raises:
            InvalidRequest: `match_input` was asked for an image too long for the limits.
        """
        if self.size != MATCH_INPUT:
            return Size.parse(self.size)
        if sides.admit(matched := source.native()):
            return matched
        raise InvalidRequest(
            f"size match_input needs sides between {sides.shortest} and {sides.longest}, "
            f"got {matched} for an image of {source}; give width*height"
        )


def unknown_keys(data: object) -> list[str]:
    """Name the keys of a job's `input` that the contract does not know, ready for a log line."""
    if not isinstance(data, Mapping):
        return []
    return sorted(_shown(str(key)) for key in data.keys() - EditRequest.model_fields.keys())


def _sentence(error: ErrorDetails) -> str:
    name = str(error["loc"][0])
    if error["type"] == "missing":
        return f"{name} is required"
    return f"{name} {_rule(name, error)}, got {_shown(error['input'], name)}"


def _rule(name: str, error: ErrorDetails) -> str:
    field = EditRequest.model_fields[name]
    limits = {type(limit): limit for limit in field.metadata}
    match error["type"]:
        case "rule":
            return error["msg"]
        case _ if Ge in limits:  # too large even for a float, or just out of range
            return f"must be between {limits[Ge].ge} and {limits[Le].le}"
        case "string_too_short":
            return "must not be blank"
        case "string_too_long":
            return f"must be at most {limits[MaxLen].max_length} characters long"
        case "enum":
            return f"must be {_either(OutputFormat)}"
        case "bool_type":
            return "must be true or false"
        case _:
            return "must be a string"


def _shown(value: object, name: str = "") -> str:
    """Write a caller's value in one short line, and of a prompt or a URL nothing private."""
    if isinstance(value, str) and name in {"prompt", "negative_prompt"}:
        return f"a string of length {len(value)}"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "an array"
    if isinstance(value, str):
        value = re.sub(r"(?s)(?<=:)//.*|\?.*", "...", value)
        value = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
    return _json(value)[: _SHOWN * 2]


def _json(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, default=lambda other: type(other).__name__)
    except ValueError:  # an integer of more digits than Python writes
        return "a number of too many digits"
    # What JSON leaves as it is but a reader may take for the end of the line.
    text = re.sub("[\x7f-\x9f\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)
    return text.encode("utf-8", "backslashreplace").decode()
