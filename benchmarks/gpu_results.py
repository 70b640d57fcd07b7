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
    """The findings of one machine.

    Args:
        path: Of the JSON file, which may exist.
        machine: What every figure depends on, by name; `card` and `torch` among it.
        derive: Adds to the document what follows from it; called before each write.

    Raises:
        OtherMachineError: The file's figures cannot stand beside those of `machine`.
    """

    def __init__(
        self, path: Path, machine: dict[str, str], derive: Callable[[Document], None]
    ) -> None:
        self._path = path
        self._derive = derive
        self.document: Document = json.loads(path.read_text()) if path.exists() else {}
        _check(path, self.document.get("machine", machine), machine)
        self.document |= {"machine": machine}

    def keep(self, part: str, name: str, found: Row) -> None:
        """Add what was found to the row of that name."""
        row = self._part(part).setdefault(name, {})
        row |= found | {"date": time.strftime("%Y-%m-%d %H:%M", time.gmtime())}
        self._write()

    def begin(self, part: str, name: str) -> None:
        """Withdraw why it was not measured before."""
        for excuse in "left_out", "failed":
            self._part(excuse).pop(f"{part} {name}", None)

    def leave_out(self, part: str, name: str, reason: str) -> None:
        """Say why something was not measured."""
        self._part("left_out")[f"{part} {name}"] = reason
        self._write()

    def fail(self, part: str, name: str, error: str) -> None:
        """Say what went wrong."""
        self._part("failed")[f"{part} {name}"] = error
        self._write()

    def _part(self, name: str) -> Row:
        part: Row = self.document.setdefault(name, {})
        return part

    def _write(self) -> None:
        self._derive(self.document)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_name(f"{self._path.name}.new")
        with new.open("w") as file:
            json.dump(self.document, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)


def _check(path: Path, known: dict[str, str], machine: dict[str, str]) -> None:
    for fact in _IDENTITY:
        if known[fact] != machine[fact]:
            raise OtherMachineError(
                f"{path} holds figures of {fact} {known[fact]}, and this machine has "
                f"{machine[fact]}; name another file with --out"
            )
