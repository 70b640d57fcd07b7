"""Loads the model and the safety checker, or their stand-ins."""

from pathlib import Path
from typing import TYPE_CHECKING

from kontext.inference import mode, weights
from kontext.inference.plan import Plan
from kontext.settings import Settings
from kontext.startup import stand_ins

if TYPE_CHECKING:
    from kontext.inference.model import Model
    from kontext.inference.safety import SafetyChecker


def plan(settings: Settings) -> Plan:
    """Return how the mode is executed on this machine's GPU.

    Raises:
        BootError: There is no GPU, or it cannot hold the mode.
    """
    from kontext.inference import model

    return mode.choose(settings.mode, model.card(), settings.largest_generated.area)


def load_model(settings: Settings) -> "Model":
    """Load the model onto the GPU, or the stand-in model onto the CPU.

    Raises:
        BootError: There are no weights, no GPU, or it cannot hold the mode.
    """
    from kontext.inference import model

    if settings.production:
        model.hide_progress_bars()
    if stand_ins.should_replace_model(settings):
        follows = "a tiny one, which follows a few instructions such as 'make it sepia'"
        stand_ins.announce("model", follows)
        loaded = model.load_stand_in()
    else:
        found = weights.find(settings.model_id, settings.model_path)
        loaded = model.load(settings.model_id, found, plan(settings))
    loaded.pipeline.set_progress_bar_config(disable=settings.production)
    return loaded


def load_safety_checker(settings: Settings) -> "SafetyChecker":
    """Load the safety checker onto the model's device, or its stand-in.

    Raises:
        BootError: It is missing in production, or damaged.
    """
    from kontext.inference import safety

    present = Path(settings.safety_model_path).is_dir()
    missing = f"SAFETY_MODEL_PATH {settings.safety_model_path} is not a directory"
    if stand_ins.should_replace("safety", settings, present, missing):
        passes = "of the same class, built in code, that passes everything"
        stand_ins.announce("safety checker", passes)
        return safety.load_stand_in(settings.safety_threshold)
    return safety.load(
        settings.safety_model_path,
        settings.safety_threshold,
        settings.safety_second_opinion_path,
        "cpu" if stand_ins.should_replace_model(settings) else "cuda",
    )
