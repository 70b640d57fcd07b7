"""How long the phases of a job took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timings:
    """Called with a phase's name it measures a `with` block; as text it lists all phases."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Measure the block's wall time, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] = time.perf_counter() - start

    def __str__(self) -> str:
        """List the phases in seconds, in their order."""
        return ", ".join(f"{phase} {seconds:.3f} s" for phase, seconds in self._seconds.items())
