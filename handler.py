"""Entry point: builds the worker once and starts Runpod."""

import os
import sys
from pathlib import Path

from kontext import logs
from kontext.errors import SettingsError
from kontext.settings import Settings
from kontext.startup import read_ahead


def main() -> None:
    """Set up the log, start reading the weights, and only then import what takes seconds."""
    try:
        settings = Settings.load()
        logs.configure(settings.production)
    except SettingsError as error:
        if "RUNPOD_WEBHOOK_GET_JOB" in os.environ:
            _refuse(error)
        sys.exit(f"The worker cannot start: {error}")
    read_ahead.start(settings)
    from kontext.serverless import sdk

    sdk.start(settings, Path(__file__).with_name("test_input.json"))


def _refuse(error: SettingsError) -> None:
    """Have the SDK tell Runpod and a waiting caller, and end the process."""
    os.environ["RUNPOD_LOG_LEVEL"] = "ERROR"  # which may be what is wrong: the SDK would die of it
    from kontext.serverless import sdk

    sdk.refuse(error)


# Guarded: Python 3.14 imports the main module again in the SDK's heartbeat process.
if __name__ == "__main__":
    main()
