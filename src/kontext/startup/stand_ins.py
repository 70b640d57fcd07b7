"""Decides which parts of a worker are stand-ins, and says so in the log.

On Runpod a part is a stand-in only if STAND_IN names it; elsewhere also if its original is missing.
"""

import logging
from contextlib import ExitStack

from kontext.errors import BootError
from kontext.inference import weights
from kontext.settings import Settings, StandIn
from kontext.storage import embedded_bucket

log = logging.getLogger("kontext")


def should_replace(part: StandIn, settings: Settings, present: bool, missing: str) -> bool:
    """Return whether a stand-in replaces `part`.

    Args:
        part: A part of the worker.
        settings: The deployer's settings.
        present: Whether the original is there.
        missing: A sentence that says what is missing if it is not.

    Raises:
        BootError: The original is missing in production.
    """
    if part in settings.stand_in:
        return True
    if present:
        return False
    if settings.production:
        raise BootError(f"{missing} (or ask for the stand-in by name: STAND_IN={part})")
    return True


def should_replace_model(settings: Settings) -> bool:
    """Return whether the stand-in model runs, on the CPU, so that no weights are loaded."""
    from kontext.inference import model

    if "model" in settings.stand_in:
        return True
    if settings.production or settings.model_path:
        return False
    return not (model.has_gpu() and weights.are_present(settings.model_id))


def start_embedded_bucket(resources: ExitStack) -> Settings:
    """Serve a bucket on loopback until `resources` are closed; return the settings for it."""
    root = resources.enter_context(embedded_bucket.temporary_root())
    environment = resources.enter_context(embedded_bucket.serve(root))
    announce("bucket", "an S3 server on loopback; its links die with this process")
    return Settings.load(**{name.lower(): value for name, value in environment.items()})


def announce(part: str, description: str) -> None:
    """Log that a stand-in is used, and what it is."""
    log.warning("STAND-IN %s: %s", part, description)
