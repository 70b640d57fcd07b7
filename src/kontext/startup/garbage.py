"""Turns Python's garbage collector off while the worker boots.

Almost everything that a boot makes stays; searching it for garbage again and again costs a second.
"""

import gc


def pause() -> None:
    """Turn the garbage collector off until `resume`."""
    gc.disable()


def resume() -> None:
    """Freeze the objects made at boot, so that they are never searched, and collect again."""
    gc.freeze()
    gc.enable()
