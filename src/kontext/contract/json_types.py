"""The JSON types of the contract's fields, as pydantic validators.

They are stricter than pydantic's own, which take "28" for an integer and true for a number. Pure:
does not know the fields.
"""

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, StrictStr
from pydantic_core import PydanticCustomError


def violation(rule: str) -> PydanticCustomError:
    """Return the error for a value that breaks `rule`, for a validator to raise."""
    return PydanticCustomError("rule", "{rule}", {"rule": rule})


def _integer(value: object) -> int:
    """Accept 28 and 28.0, which JSON does not tell apart; refuse true, "28", NaN and 28.5."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise violation("must be an integer")


def _number(value: object) -> float:
    """Accept any finite JSON number; refuse true, "2" and NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise violation("must be a number")
    if not -math.inf < value < math.inf:
        raise violation("must be a finite number")
    return value


def _text(value: object) -> object:
    """Refuse lone surrogates, which JSON can hold and no tokenizer can read."""
    if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
        raise violation("must be valid Unicode")
    return value


Integer = Annotated[int, BeforeValidator(_integer)]
Number = Annotated[float, BeforeValidator(_number)]
Text = Annotated[StrictStr, BeforeValidator(_text)]
