"""The options of `python -m kontext.local`: their names, defaults, help texts and limits.

Knows what a user may type; does not know what the server does with it.
"""

import argparse
from pathlib import Path

from kontext.errors import BootError
from kontext.local import MAX_WAITING_JOBS
from kontext.local.shutdown import GRACE_SECONDS

API_KEY = "KONTEXT_API_KEY"
"""The variable that may hold the key; every user of the machine can read a command line."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m kontext.local",
        description="Serve Runpod's API v2 on this machine, with real workers: one for each GPU, "
        "or one on the CPU with stand-ins. For development and for a single machine.",
    )
    _add_address_options(parser)
    _add_access_options(parser)
    _add_worker_options(parser)
    _add_queue_options(parser)
    return parser


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse values that the server cannot use.

    Raises:
        BootError: An option has such a value; the sentence names the option.
    """
    if arguments.workers is not None and arguments.workers < 1:
        raise BootError("--workers must be at least 1")
    if not arguments.grace >= 0:
        raise BootError(f"--grace must be 0 or more seconds, got {arguments.grace:g}")
    if arguments.queue_limit < 1:
        raise BootError(f"--queue-limit must be at least 1, got {arguments.queue_limit}")
    if not arguments.handler.is_file():
        raise BootError(f"there is no {arguments.handler}; name the workers' program by --handler")


def _add_address_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to bind (default: %(default)s)"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8000,
        help="port to bind; 0 takes a free one (default: %(default)s)",
    )


def _add_access_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help=f"file with the API key that clients must send; by default the variable {API_KEY}; "
        "without a key, only programs on this machine may send requests, and no web page",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="without a key: another name of this machine that `Host` may have; repeatable",
    )
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="without a key: origin of web pages that may send requests, such as "
        "http://localhost:3000; repeatable",
    )


def _add_worker_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=int,
        metavar="NUMBER",
        help="number of workers; by default one for each GPU, or one without a GPU",
    )
    parser.add_argument(
        "--handler",
        type=Path,
        default="handler.py",
        metavar="FILE",
        help="program of the workers (default: %(default)s)",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=GRACE_SECONDS,
        metavar="SECONDS",
        help="on SIGTERM or Ctrl-C, running jobs get so many seconds; the rest is requeued "
        "(default: %(default)g)",
    )


def _add_queue_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--queue-limit",
        type=int,
        default=MAX_WAITING_JOBS,
        metavar="JOBS",
        help="number of jobs that may wait; further ones are answered with 429 "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=".kontext",
        metavar="DIRECTORY",
        help="directory of the queue and the files (default: %(default)s)",
    )
