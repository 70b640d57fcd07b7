"""Tells a deployer which settings still have their old names."""

import logging
import os

from kontext.settings import Settings

log = logging.getLogger("kontext")


def log_old_names() -> None:
    """Log a warning for each environment variable that is set by its old name."""
    for old, new in Settings.renamed().items():
        if os.environ.get(old):
            log.warning("%s is now %s; the old name will be dropped", old, new)
