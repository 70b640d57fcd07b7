"""List the plans that `benchmarks/gpu.py` measures, the most useful first. No torch.

To add a plan, give it a name here, the mode that it starts from and the fields of
`kontext.inference.plan.Plan` that it changes. A plan that this version of the worker does not have
is left out, with the reason.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, NamedTuple, cast, get_args

from kontext.inference.mode import Card, choose
from kontext.inference.plan import Plan
from kontext.settings import Mode


class Recipe(NamedTuple):
    """A plan: the mode it starts from, its changes, and a Python module that it needs."""

    mode: str
    changes: Mapping[str, Any] = MappingProxyType({})
    needs: str | None = None


PLANS = {
    "fast": Recipe("fast"),
    "exact": Recipe("exact"),
    "turbo": Recipe("turbo"),
    "float8-attention": Recipe(
        "fast", {"float8_attention": "flash 3 float8"}, needs="flash_attn_interface"
    ),
}

EAGER = "eager"
"""The baseline: plain diffusers in bfloat16, uncompiled. It comes last, because it is slowest."""


class NotMeasurableError(Exception):
    """Raised for a plan that this machine or this version of the worker does not have."""


def find(name: str, card: Card) -> Plan | None:
    """Return the plan of that name in `PLANS`, or None for `EAGER`, which has none.

    Raises:
        NotMeasurableError: The worker has no such mode or field, or a module is not installed.
        BootError: The card cannot hold the plan.
    """
    if name == EAGER:
        choose("exact", card)  # eager diffusers needs as much memory
        return None
    recipe = PLANS[name]
    missing = sorted(recipe.changes.keys() - {field.name for field in fields(Plan)})
    if recipe.mode not in get_args(Mode):
        missing.append(f"mode {recipe.mode}")
    if missing:
        raise NotMeasurableError(f"kontext.inference.mode has no {' and no '.join(missing)}")
    if recipe.needs and not find_spec(recipe.needs):
        raise NotMeasurableError(f"{recipe.needs} is not installed")
    return replace(choose(cast("Mode", recipe.mode), card), **recipe.changes)
