"""What the server refuses: a status code and one sentence under `error`."""


class ApiError(Exception):
    """A request that cannot be answered.

    Args:
        status: HTTP status code.
        sentence: For the caller.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
