"""Prints the release notes of the tag in the variable TAG: its section of CHANGELOG.md.

A tag is `v` and the version in pyproject.toml; another one ends the program with an error.
Needs Python's standard library only.
"""

import os
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def version() -> str:
    """Return the version in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def notes(changelog: str, version: str) -> str:
    """Return the text under a version's heading in a changelog.

    Raises:
        SystemExit: The changelog has no such heading.
    """
    for section in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        if heading.split()[0] == version:
            return text.strip()
    sys.exit(f"CHANGELOG.md has no section {version}")


def main() -> None:
    """Print the notes, if the tag names the version."""
    tag = os.environ.get("TAG", "")
    if tag != f"v{version()}":
        sys.exit(f"the tag is {tag!r}, the version {version()}")
    print(notes((ROOT / "CHANGELOG.md").read_text(), version()))


if __name__ == "__main__":
    main()
