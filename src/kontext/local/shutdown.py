"""How the server is asked to shut down, and the graceful period that its workers then get.

Knows signals; does not know what is shut down: `server` does that when the event is set, and
`worker_supervisor` kills a worker whose graceful period is over.
"""

import asyncio
import logging
import signal

GRACE_SECONDS = 120.0
"""The default of `--grace`: how long a worker that is shut down may take to finish its jobs."""

log = logging.getLogger("kontext")


def stop_on_signals() -> asyncio.Event:
    """Return an event that Ctrl-C and SIGTERM set; a second signal ends the process at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def shut_down() -> None:
        log.info("the workers finish their jobs; a second Ctrl-C ends all at once")
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # without Python's traceback

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, shut_down)
    return stop
