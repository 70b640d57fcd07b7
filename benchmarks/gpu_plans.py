"""The plans that `benchmarks/gpu.py` measures, in the order of their value. No torch.

To add one, name it here: the mode that it starts from, and what its `kontext.inference.plan.Plan`
changes. What this version of the worker does not have is left out, and said so.
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
    """A mode, what its plan changes, and the module without which it cannot run."""

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
"""Plain diffusers in bfloat16, uncompiled: the baseline, and last, because it is the slowest."""


class NotMeasurableError(Exception):
    """This machine, or this version of the worker, does not have what was to be measured."""


def find(name: str, card: Card) -> Plan | None:
    """Return the plan of that name in `PLANS`; None for `EAGER`, which has none.

    Raises:
        NotMeasurableError: `kontext.inference.mode` has no such mode or choice, or a module is
        missing. BootError: The card cannot hold it.
    """
    if name == EAGER:
        choose("exact", card)  # whose memory it needs
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
