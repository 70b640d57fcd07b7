"""Keep what was measured in one JSON file that is valid at any moment.

Every figure is written at once, to a new file that then replaces the old one, so that a program
that is cut off keeps all figures so far. An existing file is extended if it was measured on the
same card with the same torch. Knows rows and names, not what the figures mean.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Document = dict[str, Any]
"""`machine`; each part, with its rows by name; `left_out` and `failed`, with reasons by part and
name; and what is derived from these."""

_IDENTITY = ("card", "torch")
"""What all figures of a file must have in common."""


class OtherMachineError(Exception):
    """Raised for a file with figures of another card or another torch."""


class Results:
    """The figures of one machine, all of them in the file.

    Args:
        path: Path of the JSON file, which may exist.
        derive: Function that adds derived figures to the document before each write.
    """

    def __init__(self, path: Path, derive: Callable[[Document], None]) -> None:
        self._path = path
        self._derive = derive

    def read(self) -> Document:
        """Return the document, empty if the file does not exist."""
        known: Document = json.loads(self._path.read_text()) if self._path.exists() else {}
        return known

    def set_machine(self, machine: dict[str, str]) -> None:
        """Record the machine that measures from now on.

        Args:
            machine: What every figure depends on, by name, including `card` and `torch`.

        Raises:
            OtherMachineError: The file has figures of another card or another torch.
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
        """Remove the reasons why a row was not measured before."""
        document = self.read()
        for excuse in "left_out", "failed":
            document.get(excuse, {}).pop(f"{part} {name}", None)
        self._write(document)

    def keep(self, part: str, name: str, found: Row) -> None:
        """Add figures to the row of that name."""
        dated = found | {"date": time.strftime("%Y-%m-%d %H:%M", time.gmtime())}
        self._add(part, name, dated)

    def leave_out(self, part: str, name: str, reason: str) -> None:
        """Record why a row was not measured."""
        self._add("left_out", f"{part} {name}", reason)

    def fail(self, part: str, name: str, error: str) -> None:
        """Record the error because of which a row is missing."""
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
