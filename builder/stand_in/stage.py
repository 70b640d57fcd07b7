"""Run one stage of training: seeded steps with a cosine learning rate, progress and checkpoints.

Knows parameters and a loss, not what is trained.
"""

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn

CHECKPOINT_SECONDS = 120.0
"""Seconds between checkpoints."""


class Stage:
    """Trains one network, and continues from its checkpoint if there is one.

    Args:
        name: Name of the stage, in its checkpoint and its progress lines.
        network: The network to train.
        parameters: The parameters of the network that training may change.
        rate: Highest learning rate of Adam.
        steps: Number of steps.
        folder: Folder of the checkpoint.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        parameters: Iterable[nn.Parameter],
        rate: float,
        steps: int,
        folder: Path,
    ) -> None:
        self._name, self._network, self._rate, self._steps = name, network, rate, steps
        self._parameters = list(parameters)
        self._optimiser = torch.optim.Adam(self._parameters, lr=rate, betas=(0.9, 0.98))
        self._checkpoint = folder / f"{name}.pt"
        self._done = 0
        self._resume()

    def run(self, loss_of: Callable[[int], torch.Tensor]) -> None:
        """Run the remaining steps.

        Args:
            loss_of: Function from a step's number, which seeds its data, to the loss.
        """
        started, kept, smooth = time.monotonic(), time.monotonic(), math.nan
        for step in range(self._done, self._steps):
            loss = self._step(step, loss_of)
            smooth = loss if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss
            if step % 50 == 0 or step == self._steps - 1:
                spent = time.monotonic() - started
                print(
                    f"{self._name} {step + 1}/{self._steps} loss {smooth:.5f} {spent:.0f} s",
                    flush=True,
                )
            if time.monotonic() - kept > CHECKPOINT_SECONDS:
                self._keep(step + 1)
                kept = time.monotonic()
        if self._done < self._steps:
            self._keep(self._steps)

    def _step(self, step: int, loss_of: Callable[[int], torch.Tensor]) -> float:
        warm = min(1.0, (step + 1) / 100)
        falling = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / self._steps))
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate * warm * falling
        loss = loss_of(step)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimiser.step()
        return loss.item()

    def _keep(self, done: int) -> None:
        state = {
            "done": done,
            "network": self._network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._checkpoint)

    def _resume(self) -> None:
        if not self._checkpoint.exists():
            return
        state = torch.load(self._checkpoint, weights_only=True)
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._done = state["done"]
        print(f"{self._name}: going on after {self._done} steps", flush=True)
