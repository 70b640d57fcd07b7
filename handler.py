"""Entry point: builds the worker once and starts Runpod."""

import sys
from pathlib import Path

from kontext import logs, prefetch
from kontext.errors import SettingsError
from kontext.settings import Settings


def main() -> None:
    """Set up the log, start reading the weights, and only then import what takes seconds."""
    try:
        settings = Settings.load()
        logs.configure(settings.production)
    except SettingsError as error:
        sys.exit(f"The worker cannot start: {error}")
    prefetch.start(settings)
    from kontext import serverless

    serverless.start(settings, Path(__file__).with_name("test_input.json"))


# Guarded: Python 3.14 imports the main module again in the SDK's heartbeat process.
if __name__ == "__main__":
    main()
