"""Computes linears that read the same tokens as one matrix product.

A LoRA is still loaded into the separate linears, the parts, whose weights are views of the joint
weight. While a part carries a LoRA, the parts are multiplied separately. Knows linears and their
names; does not know what a block computes, or precisions.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import nn


class JointProjections(nn.Module):
    """A module some of whose linears are joined; `join_projections` makes it so."""

    PARTS: ClassVar[dict[str, tuple[str, ...]]] = {}
    """The name of each joint linear, and the names of its parts."""

    _is_joined = False

    def join_projections(self) -> None:
        """Make the joint linears, and the parts' weights views of theirs.

        All weights must be on one device, in one dtype and not quantised.
        """
        for joint, names in self.PARTS.items():
            self.set_submodule(joint, _join([self._linear(name) for name in names]))
        self._is_joined = True
        self.share_weights()

    def share_weights(self) -> None:
        """Make the parts' weights views of the joint ones; needed again after quantisation."""
        for joint, names in self.PARTS.items():
            linear, first = self._linear(joint), 0
            for name in names:
                part = self._linear(name)
                rows = part.out_features
                part.weight = _parameter(linear.weight.narrow(0, first, rows))
                part.bias = _parameter(linear.bias.narrow(0, first, rows))
                first += rows

    def own_linears(self) -> Iterator[tuple[str, nn.Linear]]:
        """Yield name and linear of all but the parts, which own no weight."""
        parts = {name for names in self.PARTS.values() for name in names}
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear) and name not in parts:
                yield name, layer

    def _project(self, joint: str, tokens: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return the output of each part of `joint` for the tokens."""
        parts = [self._linear(name) for name in self.PARTS[joint]]
        if all(isinstance(part, nn.Linear) for part in parts):
            widths = [part.out_features for part in parts]
            return torch.split(self._linear(joint)(tokens), widths, dim=-1)
        return [part(tokens) for part in parts]  # PEFT has wrapped one that carries a LoRA

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move or convert the module, after which each part would have a copy of its weight."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self._is_joined:
            self.share_weights()
        return self

    def _linear(self, name: str) -> nn.Linear:
        linear: Any = self.get_submodule(name)
        return linear  # type: ignore[no-any-return]


def _join(parts: Sequence[nn.Linear]) -> nn.Linear:
    with torch.device("meta"):
        joint = nn.Linear(parts[0].in_features, sum(part.out_features for part in parts))
    joint.weight = _parameter(torch.cat([part.weight for part in parts]))
    joint.bias = _parameter(torch.cat([part.bias for part in parts]))
    return joint


def _parameter(weight: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)
