"""What the server refuses, and what it cannot do at the moment."""


class ApiError(Exception):
    """A request that cannot be answered.

    Args:
        status: HTTP status code.
        sentence: For the caller.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class QueueUnavailable(Exception):
    """The queue's file cannot be read or written now: it is locked, or its disk is full.

    Args:
        reason: SQLite's own words, which name no path.
    """

    def __init__(self, reason: object) -> None:
        super().__init__(f"the queue is unavailable: {reason}; try again later")
