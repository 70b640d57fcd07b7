"""Entry point: boots the worker and starts Runpod's SDK."""

import os
import sys
from pathlib import Path

from kontext import logs
from kontext.errors import SettingsError
from kontext.settings import Settings
from kontext.startup import read_ahead, renamed_settings


def main() -> None:
    """Configure the log and start reading the weights before the imports that take seconds."""
    try:
        settings = Settings.load()
        logs.configure(settings.production)
    except SettingsError as error:
        if "RUNPOD_WEBHOOK_GET_JOB" in os.environ:
            _refuse(error)
        sys.exit(f"The worker cannot start: {error}")
    renamed_settings.log_old_names()
    read_ahead.start(settings)
    from kontext.serverless import sdk

    sdk.start(settings, Path(__file__).with_name("test_input.json"))


def _refuse(error: SettingsError) -> None:
    """Make the SDK report the wrong setting to Runpod and a waiting caller, and end the process."""
    os.environ["RUNPOD_LOG_LEVEL"] = "ERROR"  # a wrong level would crash the SDK
    from kontext.serverless import sdk

    sdk.refuse(error)


# Python 3.14 imports the main module again in the SDK's heartbeat process.
if __name__ == "__main__":
    main()
