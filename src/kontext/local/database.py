"""The queue's file: SQLite, in transactions that outlive the death of this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from kontext.local.errors import QueueUnavailable
from kontext.local.record import Base

LOCKED_SECONDS = 0.5
"""How long a transaction waits for another process to release the file; the server stands still."""


class Database:
    """An open file.

    Args:
        path: Made when it does not exist.

    Raises:
        QueueUnavailable: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        url = URL.create("sqlite", database=str(path))
        self._engine = create_engine(url, connect_args={"timeout": LOCKED_SECONDS})
        event.listen(self._engine, "connect", _durable_but_quick)
        with _available():
            Base.metadata.create_all(self._engine)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Commit at the end of the block; what it loaded stays readable.

        Raises:
            QueueUnavailable: Nothing was changed.
        """
        with (
            _available(),
            Session(self._engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()


@contextmanager
def _available() -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        raise QueueUnavailable(error.orig) from error


def _durable_but_quick(connection: Any, _record: object) -> None:  # noqa: ANN401 - the DB-API's
    """Survive the death of the process at every commit, without waiting for the disk at each."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
