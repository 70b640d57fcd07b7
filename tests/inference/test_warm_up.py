"""The warm-up: which edits it makes, in which order, and on which thread."""

import threading
from collections.abc import Callable

import flux_model
from PIL import Image

from kontext.contract.size import Size
from kontext.inference import acceleration
from kontext.inference.edit import Edit
from kontext.inference.model import Model
from kontext.inference.plan import EXACT
from kontext.inference.warm_up import warm_up
from kontext.settings import Settings
from kontext.startup.boot import Boot
from tests.support.progress import post_nothing


class Recorder:
    """An editor that records its edits and their threads."""

    mode = "exact"

    def __init__(self) -> None:
        self.edits: list[Edit] = []
        self.threads: set[int] = set()

    def edit(self, edit: Edit, _on_step: Callable[[int], None]) -> Image.Image:
        self.edits.append(edit)
        self.threads.add(threading.get_ident())
        return Image.new("RGB", (edit.size.width, edit.size.height))


async def test_the_warm_up_runs_on_the_thread_that_runs_the_jobs() -> None:
    """CuDNN's plans and cuBLAS's handles belong to a thread."""
    pipeline = flux_model.pipeline()
    acceleration.prepare(pipeline, EXACT)
    boot, editor = Boot(Settings.load(), post_nothing), Recorder()
    boot._compile(Model(pipeline, "random", "none"), editor)  # type: ignore[arg-type]

    assert editor.threads == {await boot.executor.run(lambda _: threading.get_ident())}
    assert threading.get_ident() not in editor.threads


def test_the_warm_up_begins_with_what_the_documentation_asks_for() -> None:
    """Kernels are tuned for the first size; a negative prompt and another aspect follow."""
    editor = Recorder()
    warm_up(editor)  # type: ignore[arg-type]
    first, *others = editor.edits

    assert first.size == Size(1024, 1024)
    assert first.reference is not None
    assert first.reference.size == (1024, 1024)
    assert any(edit.request.negative_prompt for edit in others)
    assert any(edit.size.width != edit.size.height for edit in others)
