"""A job's states, and the body that a client submits it with.

Knows what Runpod documents of both; does not know how a job is stored or run.
"""

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    JsonValue,
    StrictBool,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import from_json

SECOND = 1000
"""A second in milliseconds, the unit of Runpod's API."""

DAY = 86_400 * SECOND

_OBJECT = TypeAdapter(dict[str, JsonValue], config=ConfigDict(allow_inf_nan=False))


class Status(StrEnum):
    """Runpod's six states."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def is_final(self) -> bool:
        """Whether a job in this state has ended; only a retry changes it then."""
        return self not in {Status.IN_QUEUE, Status.IN_PROGRESS}


class InvalidBody(Exception):
    """A body breaks Runpod's documented format; the sentence names the field."""


class Policy(BaseModel):
    """The documented `policy` of a job; times in milliseconds."""

    model_config = ConfigDict(frozen=True)

    executionTimeout: Annotated[int, Field(ge=5 * SECOND, le=7 * DAY)] = (  # noqa: N815 - Runpod's
        600 * SECOND
    )
    ttl: Annotated[int, Field(ge=10 * SECOND, le=7 * DAY)] = DAY
    lowPriority: StrictBool = False  # noqa: N815 - Runpod's name


class Submission(BaseModel):
    """The body of `/run` and `/runsync`."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    input: dict[str, Any]
    webhook: HttpUrl | None = None
    policy: Policy = Policy()
    s3Config: dict[str, Any] | None = None  # noqa: N815 - Runpod's name

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Parse a request's body.

        Raises:
            InvalidBody: The body is not JSON, or breaks the documented format.
        """
        try:
            return cls.model_validate(json_object(body))
        except ValidationError as error:
            raise InvalidBody("; ".join(map(_sentence, error.errors()))) from None


def json_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object strictly, so that it can be sent to clients again.

    Python's own parser accepts values that no answer may contain: NaN, 1e400, half of a surrogate
    pair.

    Raises:
        InvalidBody: The body is not a JSON object.
    """
    try:
        return _OBJECT.validate_python(from_json(body, allow_inf_nan=False))
    except ValidationError:
        raise InvalidBody("body: must be a JSON object, its numbers finite") from None
    except ValueError as error:
        raise InvalidBody(f"body: not JSON, {error}") from None


def _sentence(error: Any) -> str:  # noqa: ANN401 - pydantic's own dictionary
    place = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{place} is required"
    return f"{place}: {error['msg']}"
