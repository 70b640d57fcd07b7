"""What a worker does before its first job: where, and in which order."""

import threading
from collections.abc import Callable

import flux_model
from PIL import Image

from kontext.contract.size import Size
from kontext.inference import acceleration
from kontext.inference.edit import Edit
from kontext.inference.mode import EXACT
from kontext.inference.model import Model
from kontext.settings import Settings
from kontext.startup.boot import Boot
from tests.startup.test_boot import post_nothing


class Recorder:
    """An editor that notes its edits, and the thread of each."""

    mode = "exact"

    def __init__(self) -> None:
        self.edits: list[Edit] = []
        self.threads: set[int] = set()

    def edit(self, edit: Edit, _on_step: Callable[[int], None]) -> Image.Image:
        self.edits.append(edit)
        self.threads.add(threading.get_ident())
        return Image.new("RGB", (edit.size.width, edit.size.height))


async def test_the_warm_up_runs_on_the_thread_that_runs_the_jobs() -> None:
    """CuDNN's plans and the handles of cuBLAS belong to a thread."""
    pipeline = flux_model.pipeline()
    acceleration.prepare(pipeline, EXACT)
    boot, editor = Boot(Settings.load(), post_nothing), Recorder()
    boot._compile(Model(pipeline, "random", "none"), editor)  # type: ignore[arg-type]

    assert editor.threads == {await boot.executor.run(lambda _: threading.get_ident())}
    assert threading.get_ident() not in editor.threads


async def test_the_warm_up_begins_with_what_the_documentation_asks_for() -> None:
    """Kernels are tuned at the size that comes first; a negative prompt and a photograph follow."""
    boot, editor = Boot(Settings.load(), post_nothing), Recorder()
    boot._warm_up(editor)  # type: ignore[arg-type]
    first, *others = editor.edits

    assert first.size == Size(1024, 1024)
    assert first.reference.size == (1024, 1024)
    assert any(edit.request.negative_prompt for edit in others)
    assert any(edit.size.width != edit.size.height for edit in others)
