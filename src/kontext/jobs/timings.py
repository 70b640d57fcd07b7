"""How long the phases of a job took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timings:
    """Measures the phases of one job; `str()` lists them."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Measure the wall time of a `with` block, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] = time.perf_counter() - start

    def __str__(self) -> str:
        """List the phases in the order in which they ended, in seconds."""
        return ", ".join(f"{phase} {seconds:.3f} s" for phase, seconds in self._seconds.items())
