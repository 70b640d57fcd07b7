"""Configures one log: plain lines on a laptop, the SDK's JSON lines in production.

Runpod's console groups lines by `requestId`, so every line about a job carries its id. The code
that logs is responsible for what a line contains: never a prompt, a URL's query or a secret.
"""

import json
import logging
import os
import re
import sys

from kontext.errors import SettingsError

_RUNPOD_LEVELS = ("NOTSET", "TRACE", "DEBUG", "INFO", "WARN", "ERROR")
_PYTHON_LEVELS = {"WARNING": "WARN", "CRITICAL": "ERROR"}


class JobLog(logging.LoggerAdapter[logging.Logger]):
    """A logger that adds a job's id to every line."""

    def __init__(self, job_id: str) -> None:
        super().__init__(logging.getLogger("kontext"), {"job_id": job_id})


class PlainFormatter(logging.Formatter):
    """Formats lines for people, and removes credentials and queries from URLs."""

    def __init__(self, layout: str = "%(levelname)-7s| %(job_id)s | %(message)s") -> None:
        super().__init__(layout, defaults={"job_id": "worker"})

    def format(self, record: logging.LogRecord) -> str:
        """Return one line; an error that was not foreseen has its traceback below."""
        if record.exc_info and record.levelno < logging.ERROR:
            record.exc_text = _causes(record.exc_info[1])
        text = re.sub(r"(?<=://)[^/@\s]*@", "", super().format(record))
        return re.sub(r"(?<=://)([^\s?'\"]*)\?[^\s'\"]*", r"\1?...", text)


class RunpodFormatter(PlainFormatter):
    """Formats lines as the JSON that Runpod's own SDK prints."""

    def __init__(self) -> None:
        super().__init__("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        message = super().format(record)
        level = _PYTHON_LEVELS.get(record.levelname, record.levelname)
        job_id = getattr(record, "job_id", None)
        return json.dumps({"requestId": job_id, "message": message, "level": level})


def configure(production: bool) -> None:
    """Send every line to standard output, as the SDK does, and silence libraries.

    Must run before `runpod` is imported, because that reads its log level then. At its default
    level DEBUG it prints prompts and links, and the level name WARNING crashes it.

    Args:
        production: Whether lines are JSON for Runpod's console.

    Raises:
        SettingsError: RUNPOD_LOG_LEVEL is not a level of the SDK.
    """
    os.environ["RUNPOD_LOG_LEVEL"] = _level()
    # Their warnings contain the part of a long prompt that they cut off.
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # When imported, they warn about kernels for other cards.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(RunpodFormatter() if production else PlainFormatter())
    # At INFO httpx logs every URL with the signature in its query. The SDK, when imported, does
    # not configure a root logger that has a handler.
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("kontext").setLevel(logging.INFO)


def _level() -> str:
    given = os.environ.get("RUNPOD_LOG_LEVEL") or os.environ.get("RUNPOD_DEBUG_LEVEL") or "INFO"
    level = _PYTHON_LEVELS.get(given.upper(), given.upper())
    if level not in _RUNPOD_LEVELS:
        raise SettingsError(f"RUNPOD_LOG_LEVEL must be one of {', '.join(_RUNPOD_LEVELS)}")
    return level


def _causes(error: BaseException | None) -> str:
    """Return the causes of a foreseen failure in one line; a traceback would not help."""
    causes = []
    while error is not None:
        causes.append(f"{type(error).__name__}: {error}")
        error = error.__cause__
    return f"cause: {', from '.join(dict.fromkeys(causes))}"
