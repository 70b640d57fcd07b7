"""The fields of a job's `input`: names, JSON types, ranges, defaults and descriptions.

`EditRequest` is the one place where the contract's fields are written down; the table in
docs/contract.md and the tests are derived from it. Does not know images, networks or GPUs.
"""

from collections.abc import Mapping
from typing import Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    StrictStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from kontext.contract.json_types import Integer, Number, Text, violation
from kontext.contract.output_format import OutputFormat
from kontext.contract.size import DEFAULT_AREAS, DEFAULT_SIDES, AreaLimits, SideLimits, Size
from kontext.contract.violations import either, sentence, shown
from kontext.errors import InvalidRequest

MATCH_INPUT = "match_input"
MAX_PROMPT_LENGTH = 10_000
"""Characters. T5 reads 512 tokens, far fewer; the rest would only take time to tokenise."""


_TWO_SIZES = "aspect_ratio and size exclude each other; give one of them"

DEFAULT_SAFETY_TOLERANCE = 2
"""The default of Black Forest Labs' own API, whose scale it is."""

EDIT, GENERATE = "edit", "generate"

REQUIRED_TO_EDIT: dict[str, JsonValue] = {"required": True}
"""Marks the field that Runpod documents as required, and that the extension `generate` lacks."""

EXTENSION: dict[str, JsonValue] = {"extension": True}
"""Marks a field that Runpod does not document, and that a documented request never has."""


class EditRequest(BaseModel):
    """One edit, as Runpod documents it for its public FLUX.1 Kontext [dev] endpoint."""

    model_config = ConfigDict(frozen=True, extra="ignore", validate_default=True)

    task: StrictStr = Field(
        default=EDIT,
        description="`edit`, or `generate`: makes an image from the prompt alone, without `image`.",
        json_schema_extra=EXTENSION,
    )
    prompt: Text = Field(
        description="What to change, in words.", min_length=1, max_length=MAX_PROMPT_LENGTH
    )
    image: Text | None = Field(
        default=None,
        description="The image to edit: an http(s) URL, or a `data:` URL.",
        repr=False,
        json_schema_extra=REQUIRED_TO_EDIT,
    )
    negative_prompt: Text = Field(
        default="",
        description="What to keep out. Not empty: true classifier-free guidance, twice the time.",
        max_length=MAX_PROMPT_LENGTH,
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
    output_format: OutputFormat = Field(
        default=OutputFormat.PNG,
        description="File format of the result: `png` or `jpeg`; the extension `webp`.",
    )
    enable_safety_checker: StrictBool = Field(
        default=True, description="Whether a result that is not fit to be seen fails the job."
    )
    output_quality: Integer = Field(
        default=95,  # as Black Forest Labs' own `save_image`
        ge=1,
        le=100,
        description="Quality of a `jpeg` or `webp`; a `png` loses nothing.",
        json_schema_extra=EXTENSION,
    )
    safety_tolerance: Integer = Field(
        default=DEFAULT_SAFETY_TOLERANCE,
        ge=0,
        le=6,
        description="How much the safety checker lets pass: 0 the least, 2 what the deployer's "
        "threshold says, 6 the most.",
        json_schema_extra=EXTENSION,
    )
    aspect_ratio: StrictStr | None = Field(
        default=None,
        description="Takes the place of `size`: `width:height`, from `21:9` to `9:21`, at about "
        "one megapixel.",
        json_schema_extra=EXTENSION,
    )

    @classmethod
    def parse(cls, data: object, sides: SideLimits = DEFAULT_SIDES) -> Self:
        """Read a job's `input`; null means the default, unknown keys are ignored.

        Raises:
            InvalidRequest: One sentence with every violation, joined by '; '.
        """
        if not isinstance(data, Mapping):
            raise InvalidRequest(f"input must be an object, got {shown(data)}")
        given = {str(key): value for key, value in data.items() if value is not None}
        problems = [_TWO_SIZES] if {"size", "aspect_ratio"} <= given.keys() else []
        try:
            request = cls.model_validate(given, context=sides)
        except ValidationError as error:
            problems += [sentence(each, cls.model_fields) for each in error.errors()]
        if problems:
            raise InvalidRequest("; ".join(problems))
        return request

    @field_validator("task")
    @classmethod
    def _is_task(cls, task: str) -> str:
        if task in {EDIT, GENERATE}:
            return task
        raise violation(f"must be {either((EDIT, GENERATE))}")

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, prompt: str) -> str:
        if not prompt.strip():
            raise violation("must not be blank")
        return prompt

    @field_validator("image")
    @classmethod
    def _fits_task(cls, image: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("task") == GENERATE:
            if image is not None:
                raise violation(f"must be absent when task is {GENERATE}")
            return None
        if image is None:
            raise PydanticCustomError("missing", "is required")
        if image[:8].lower().startswith(("http://", "https://", "data:")):
            return image
        raise violation("must be an http, https or data URL")

    @field_validator("output_format", mode="before")
    @classmethod
    def _is_string(cls, value: object) -> object:
        # Python's enum writes a value that it does not know, and an array can be too deep for that.
        if isinstance(value, str):
            return value
        raise violation(f"must be {either(OutputFormat)}")

    @field_validator("size")
    @classmethod
    def _within_sides(cls, size: str, info: ValidationInfo) -> str:
        if size == MATCH_INPUT:
            if info.data.get("task") == GENERATE:
                raise violation(f'must be "width*height" when task is {GENERATE}')
            return size
        sides: SideLimits = info.context or DEFAULT_SIDES
        try:
            is_allowed = sides.allow(Size.parse(size))
        except ValueError:
            raise violation('must be "width*height" or "match_input"') from None
        if not is_allowed:
            raise violation(f"must have sides between {sides.shortest} and {sides.longest}")
        return size

    @field_validator("aspect_ratio")
    @classmethod
    def _within_aspect_ratios(cls, ratio: str | None, info: ValidationInfo) -> str | None:
        if ratio is None:
            return None
        sides: SideLimits = info.context or DEFAULT_SIDES
        try:
            size = Size.of_aspect_ratio(ratio)
        except ValueError:
            raise violation('must be "width:height" between 21:9 and 9:21') from None
        if not sides.allow(size):
            raise violation(f"needs sides between {sides.shortest} and {sides.longest}")
        return ratio

    @property
    def fixed_size(self) -> Size | None:
        """The size to deliver, if it does not depend on the input image."""
        if self.aspect_ratio is not None:
            return Size.of_aspect_ratio(self.aspect_ratio)
        return None if self.size == MATCH_INPUT else Size.parse(self.size)

    def pixels(self, areas: AreaLimits = DEFAULT_AREAS) -> int | None:
        """Return the pixels to generate; None for `match_input`, which depends on the image."""
        return areas.generated(size).area if (size := self.fixed_size) else None

    def output_size(self, source: Size | None, sides: SideLimits = DEFAULT_SIDES) -> Size:
        """Return the size to deliver.

        Args:
            source: The size of the input image; None if there is none.
            sides: The limits of the deployment.

        Raises:
            InvalidRequest: `match_input` would give a size outside of the limits.
        """
        size = self.fixed_size
        if size or source is None:
            return size or Size.parse(self.size)
        if sides.allow(matched := source.native()):
            return matched
        raise InvalidRequest(
            f"size match_input needs sides between {sides.shortest} and {sides.longest}, "
            f"got {matched} for an image of {source}; give width*height"
        )


def unknown_keys(data: object) -> list[str]:
    """Return the keys of a job's `input` that the contract does not know, quoted for the log."""
    if not isinstance(data, Mapping):
        return []
    return sorted(shown(str(key)) for key in data.keys() - EditRequest.model_fields.keys())
