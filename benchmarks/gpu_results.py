"""What was measured, in one JSON file that is whole at any moment.

Every finding is written at once, into a new file that then takes the place of the old one, so that
a program that is cut off leaves all that it had found. What the file already holds is kept and
added to, if it was measured on the same card with the same torch. Knows nothing of the figures.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Document = dict[str, Any]
"""`machine`, each part by its name (which holds rows by theirs), `left_out` and `failed` (reasons
by part and name) and whatever is derived from these."""

_IDENTITY = ("card", "torch")
"""What figures must have in common to stand in one file."""


class OtherMachineError(Exception):
    """The file's figures are of another card or another torch."""


class Results:
    """The findings of one machine; nothing is held but the file.

    Args:
        path: Of the JSON file, which may exist.
        derive: Adds to the document what follows from it; called before each write.
    """

    def __init__(self, path: Path, derive: Callable[[Document], None]) -> None:
        self._path = path
        self._derive = derive

    def read(self) -> Document:
        """Return what is known."""
        known: Document = json.loads(self._path.read_text()) if self._path.exists() else {}
        return known

    def claim(self, machine: dict[str, str]) -> None:
        """Say which machine measures from here on.

        Args:
            machine: What every figure depends on, by name; `card` and `torch` among it.

        Raises:
            OtherMachineError: The file's figures cannot stand beside those of `machine`.
        """
        document = self.read()
        known = document.get("machine", machine)
        for fact in _IDENTITY:
            if known[fact] != machine[fact]:
                raise OtherMachineError(
                    f"{self._path} holds figures of {fact} {known[fact]}, and this machine has "
                    f"{machine[fact]}; name another file with --out"
                )
        self._write(document | {"machine": machine})

    def begin(self, part: str, name: str) -> None:
        """Withdraw why something was not measured before."""
        document = self.read()
        for excuse in "left_out", "failed":
            document.get(excuse, {}).pop(f"{part} {name}", None)
        self._write(document)

    def keep(self, part: str, name: str, found: Row) -> None:
        """Add what was found to the row of that name."""
        dated = found | {"date": time.strftime("%Y-%m-%d %H:%M", time.gmtime())}
        self._add(part, name, dated)

    def leave_out(self, part: str, name: str, reason: str) -> None:
        """Say why something was not measured."""
        self._add("left_out", f"{part} {name}", reason)

    def fail(self, part: str, name: str, error: str) -> None:
        """Say what went wrong."""
        self._add("failed", f"{part} {name}", error)

    def _add(self, part: str, name: str, value: Row | str) -> None:
        document = self.read()
        rows = document.setdefault(part, {})
        rows[name] = rows.get(name, {}) | value if isinstance(value, dict) else value
        self._write(document)

    def _write(self, document: Document) -> None:
        self._derive(document)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_name(f"{self._path.name}.new")
        with new.open("w") as file:
            json.dump(document, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
