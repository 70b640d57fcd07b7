"""The edits that a worker makes before its first job, so that no job pays for what comes first.

Compiled code serves every size, but is tuned at the size that comes first; cuDNN's plans and the
handles of cuBLAS belong to a thread and to a size. So the documented default comes first, and all
of it on the thread that will run the jobs. Knows what is usual, and nothing of compilation.
"""

from PIL import Image

from kontext.contract.request import EditRequest
from kontext.contract.size import Size
from kontext.errors import BootError, OutOfMemory
from kontext.inference.edit import Edit
from kontext.inference.editor import Editor

_DEFAULT = Size(1024, 1024)
"""What the documentation's requests ask for: 4,096 tokens and as many of the reference, beside 512
of text. Lengths that were equal at the first compilation would be taken to be equal for ever."""

_PHOTOGRAPH = Size(1248, 832)
"""Of a camera's usual aspect, 3:2, at about the default's area."""


def warm_up(editor: Editor) -> Image.Image:
    """Make the usual edits, of one step each, and return the last image.

    Raises:
        BootError: The GPU cannot hold a usual edit.
    """
    try:
        for size, negative_prompt in (_DEFAULT, ""), (_DEFAULT, "a cat"), (_PHOTOGRAPH, ""):
            image = editor.edit(_an_edit(size, negative_prompt), lambda _: None)
    except OutOfMemory as error:
        raise BootError(
            f"this GPU cannot hold an edit of {_DEFAULT} with MODE={editor.mode}; "
            "choose a larger one, or a mode that takes less"
        ) from error
    return image


def _an_edit(size: Size, negative_prompt: str) -> Edit:
    return Edit(
        EditRequest(
            prompt="warm-up",
            image="data:,",
            negative_prompt=negative_prompt,
            num_inference_steps=1,
        ),
        reference=Image.new("RGB", (size.width, size.height)),
        size=size,
        generated=size,
        seed=0,
    )
