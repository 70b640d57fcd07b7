"""Find the kernels that take the most time of one call of the transformer."""

from typing import Any

from diffusers import FluxKontextPipeline
from gpu_subject import Subject
from gpu_watch import now
from torch.profiler import ProfilerActivity, profile

from kontext.inference.editor import Editor

KERNELS = 10
"""Number of kernels to report."""

_PROFILED = 1
"""Index of the call that is profiled. The first call may also compute what all calls share."""


def profile_step(subject: Subject, editor: Editor, built: FluxKontextPipeline) -> dict[str, Any]:
    """Run one edit with the profiler on during one call of the transformer.

    Returns:
        `seconds` of all kernels (on a CPU: operations) together, `span_seconds` of the call, and
        the ten longest `kernels`, each with name, seconds, calls and share of the total.
    """
    step = _ProfiledStep(subject.device)
    hooks = [
        built.transformer.register_forward_pre_hook(step.before),
        built.transformer.register_forward_hook(step.after),
    ]
    try:
        editor.edit(subject.edit(num_inference_steps=_PROFILED + 1), lambda _: None)
    finally:
        for hook in hooks:
            hook.remove()
    return step.found()


class _ProfiledStep:
    """Hooks that turn the profiler on for one call of the transformer."""

    def __init__(self, device: str) -> None:
        self._kind = device.upper()
        self._profile = profile(activities=[getattr(ProfilerActivity, self._kind)])
        self._calls = 0
        self._began = self._span = 0.0

    def before(self, *_: object) -> None:
        if self._calls == _PROFILED:
            self._profile.start()
            self._began = now()

    def after(self, *_: object) -> None:
        if self._calls == _PROFILED:
            self._span = now() - self._began
            self._profile.stop()
        self._calls += 1

    def found(self) -> dict[str, Any]:
        kernels = [
            {"name": event.key, "seconds": self._microseconds(event) / 1e6, "calls": event.count}
            for event in self._profile.key_averages()
            if event.device_type.name == self._kind and not event.is_user_annotation
        ]
        if not kernels:
            raise RuntimeError("the profiler saw no kernel")
        kernels.sort(key=lambda kernel: -kernel["seconds"])
        total = sum(kernel["seconds"] for kernel in kernels)
        longest = [kernel | {"share": kernel["seconds"] / total} for kernel in kernels[:KERNELS]]
        return {"seconds": total, "span_seconds": self._span, "kernels": longest}

    def _microseconds(self, event: Any) -> float:  # noqa: ANN401 - not exported by torch
        on_cpu = self._kind == "CPU"
        return float(event.self_cpu_time_total if on_cpu else event.self_device_time_total)
