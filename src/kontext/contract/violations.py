"""Writes what is wrong with a field of `input` as one sentence for the caller.

Knows pydantic's errors and which values must not be repeated; does not know the fields' rules.
"""

import json
import re
from collections.abc import Iterable, Mapping

from annotated_types import Ge, Le, MaxLen
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from kontext.contract.output_format import OutputFormat

_MAX_SHOWN = 40
"""Characters of a caller's value that an error repeats."""


def either(words: Iterable[str]) -> str:
    """Join alternatives by "or"."""
    return " or ".join(words)


def sentence(error: ErrorDetails, fields: Mapping[str, FieldInfo]) -> str:
    """Name the field, the rule that it breaks and the value.

    Args:
        error: One of pydantic's errors.
        fields: The fields of the model that pydantic has validated.
    """
    name = str(error["loc"][0])
    if error["type"] == "missing":
        return f"{name} is required"
    return f"{name} {_rule(error, fields[name])}, got {shown(error['input'], name)}"


def _rule(error: ErrorDetails, field: FieldInfo) -> str:
    limits = {type(limit): limit for limit in field.metadata}
    match error["type"]:
        case "rule":
            return error["msg"]
        case _ if Ge in limits:  # out of range, or too large even for a float
            return f"must be between {limits[Ge].ge} and {limits[Le].le}"
        case "string_too_short":
            return "must not be blank"
        case "string_too_long":
            return f"must be at most {limits[MaxLen].max_length} characters long"
        case "enum":
            return f"must be {either(OutputFormat)}"
        case "bool_type":
            return "must be true or false"
        case _:
            return "must be a string"


def shown(value: object, name: str = "") -> str:
    """Write a caller's value in one short line, without a prompt or a URL's private parts.

    Args:
        value: Any JSON value.
        name: The name of its field.
    """
    if isinstance(value, str) and name in {"prompt", "negative_prompt"}:
        return f"a string of length {len(value)}"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "an array"
    if isinstance(value, str):
        value = re.sub(r"(?s)(?<=:)//.*|\?.*", "...", value)
        value = value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]}..."
    return _json(value)[: _MAX_SHOWN * 2]


def _json(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, default=lambda other: type(other).__name__)
    except ValueError:  # Python refuses to write an integer of so many digits
        return "a number of too many digits"
    # JSON leaves these characters as they are, but a reader may take them for the end of the line.
    text = re.sub("[\x7f-\x9f\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)
    return text.encode("utf-8", "backslashreplace").decode()
