"""One log for people and for Runpod: plain lines on a laptop, the SDK's JSON lines in production.

Runpod's console groups lines by `requestId`, so every line of a job carries its id. What may be
in a line is decided where it is written: never a prompt, a URL's query or a secret.
"""

import json
import logging
import os
import re
import sys

_RUNPOD_LEVELS = {"WARNING": "WARN", "CRITICAL": "ERROR"}


class JobLog(logging.LoggerAdapter[logging.Logger]):
    """A logger whose every line carries a job's id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(logging.getLogger("kontext"), {"job_id": job_id})


class PlainFormatter(logging.Formatter):
    """Lines for people; of a URL neither credentials nor query, where tokens travel."""

    def __init__(self, layout: str = "%(levelname)-7s| %(job_id)s | %(message)s") -> None:
        super().__init__(layout, defaults={"job_id": "worker"})

    def format(self, record: logging.LogRecord) -> str:
        """Write one line."""
        text = re.sub(r"(?<=://)[^/@\s]*@", "", super().format(record))
        return re.sub(r"(?<=://)([^\s?'\"]*)\?[^\s'\"]*", r"\1?...", text)


class RunpodFormatter(PlainFormatter):
    """The JSON that Runpod's own SDK prints."""

    def __init__(self) -> None:
        super().__init__("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Write one line."""
        message = super().format(record)
        level = _RUNPOD_LEVELS.get(record.levelname, record.levelname)
        job_id = getattr(record, "job_id", None)
        return json.dumps({"requestId": job_id, "message": message, "level": level})


def configure(production: bool) -> None:
    """Send our lines to standard output, as the SDK does, and quieten libraries.

    Must run before `runpod` is imported: it reads its level then, prints prompts and links at its
    default level DEBUG, and dies of the level name WARNING.
    """
    level = os.environ.get("RUNPOD_LOG_LEVEL") or os.environ.get("RUNPOD_DEBUG_LEVEL") or "INFO"
    os.environ["RUNPOD_LOG_LEVEL"] = _RUNPOD_LEVELS.get(level.upper(), level.upper())
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(RunpodFormatter() if production else PlainFormatter())
    logger = logging.getLogger("kontext")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # httpx writes every URL, with the signature in its query, at INFO.
    logging.getLogger("httpx").setLevel(logging.WARNING)
