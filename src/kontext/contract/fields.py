"""Answers questions about the fields of a request: which are extensions, and how far they go.

Knows the model's metadata; does not know what the fields mean.
"""

from copy import copy
from typing import Any

from annotated_types import Le
from pydantic import create_model
from pydantic.fields import FieldInfo

from kontext.contract.request import EXTENSION, EditRequest


def extension_fields() -> set[str]:
    """Return the names of the fields that Runpod does not document."""
    fields = EditRequest.model_fields.items()
    return {name for name, field in fields if field.json_schema_extra == EXTENSION}


def limited(**maxima: float) -> type[EditRequest]:
    """Return the request of a deployment with other maxima than those of `EditRequest`.

    Args:
        maxima: The highest value of each of these fields.
    """
    fields: dict[str, Any] = {name: _with_maximum(name, most) for name, most in maxima.items()}
    return create_model("EditRequest", __base__=EditRequest, **fields)


def _with_maximum(name: str, most: float) -> tuple[Any, FieldInfo]:
    field = copy(EditRequest.model_fields[name])
    field.metadata = [Le(most) if isinstance(rule, Le) else rule for rule in field.metadata]
    return field.annotation, field


def maximum(name: str) -> float:
    """Return the highest value of a field, unless the deployer sets another."""
    (limit,) = (rule for rule in EditRequest.model_fields[name].metadata if isinstance(rule, Le))
    return float(str(limit.le))
