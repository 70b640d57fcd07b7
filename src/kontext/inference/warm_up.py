"""Makes a few edits before the first job, so that no job waits for compilation or set-up.

Compiled code serves every size, but is tuned at the size of its first call. cuDNN's plans and
cuBLAS's handles belong to a thread and a size. So the warm-up begins with the documented default
size, and must run on the GPU thread. Knows usual requests; does not know compilation.
"""

from PIL import Image

from kontext.contract.request import EditRequest
from kontext.contract.size import Size
from kontext.errors import BootError, OutOfMemory
from kontext.inference.edit import Edit
from kontext.inference.editor import Editor

_DEFAULT = Size(1024, 1024)
"""The size in the documented requests: 4,096 tokens, as many of the reference, and 512 of text.
Image and text must differ in length, or the compiler would assume that they never do."""

_PHOTOGRAPH = Size(1248, 832)
"""A camera's usual aspect ratio, 3:2, at about the area of `_DEFAULT`."""


def warm_up(editor: Editor) -> Image.Image:
    """Make usual edits of one step each, and return the last image.

    Raises:
        BootError: A usual edit does not fit into the GPU's memory.
    """
    try:
        for size, negative_prompt in (_DEFAULT, ""), (_DEFAULT, "a cat"), (_PHOTOGRAPH, ""):
            image = editor.edit(_one_step(size, negative_prompt), lambda _: None)
    except OutOfMemory as error:
        raise BootError(
            f"this GPU cannot hold an edit of {_DEFAULT} with MODE={editor.mode}; "
            "choose a larger one, or a mode that takes less"
        ) from error
    return image


def _one_step(size: Size, negative_prompt: str) -> Edit:
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
