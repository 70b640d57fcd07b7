"""README and docs name what exists: pages, headings, files, modules, settings and packages."""

import re
from pathlib import Path

import pytest

from kontext.settings import Settings
from tests.support.pages import DOCS, PACKAGE, PAGES, ROOT, anchors, blocks, codes, links
from tests.test_layers import PACKAGES, RULES

FOREIGN = {"HF_TOKEN", "BAKE_MODEL", "PIP_EXTRA_INDEX_URL", "KONTEXT_API_KEY"} | {
    "RUNPOD_LOG_LEVEL",
    "RUNPOD_ENDPOINT_BASE_URL",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
}
"""Environment variables and build arguments in the pages that are no settings."""

HOMES = (ROOT, PACKAGE)
"""Where the files and folders that the pages name are looked for."""
MADE = {"output/", ".kontext/", "kontext/"}
"""Folders that a program makes, and the prefix of keys in a bucket."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_the_readme_is_short() -> None:
    """It fits a reader's patience and leads to every page."""
    readme = ROOT / "README.md"

    assert len(readme.read_text().splitlines()) <= 150
    assert {str(page.relative_to(ROOT)) for page in DOCS[1:]} <= {
        target.partition("#")[0] for target in links(readme)
    }


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files that are linked exist, and so do the headings in them."""
    for target in links(page):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_settings_exist() -> None:
    """Every environment variable that the pages name is a setting, or known to be foreign."""
    named = {
        name
        for code in codes()
        for name in re.findall(r"^[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]\b|^MODE\b", code)
    }

    assert "BUCKET_NAME" in named
    assert (
        named <= {name.upper() for name in Settings.model_fields} | {*Settings.renamed()} | FOREIGN
    )


def test_the_packages_are_described() -> None:
    """The map has a row for each package, and the order shown is the one that is enforced."""
    page = (ROOT / "docs/architecture.md").read_text()
    [order] = [block for block in blocks("text") if "<-" in block]
    levels = [level.split(", ") for level in order.strip().split(" <- ")]
    below: set[str] = set()

    assert sorted(re.findall(r"^\| `(\w+)/`", page, re.MULTILINE)) == PACKAGES
    assert levels.pop() == ["handler"]
    for level in levels:
        above = {name for names in levels for name in names} - below
        for name in level:
            assert not {rule.partition(".")[0] for rule in RULES[name]} & above
        below.update(level)


def test_modules_exist() -> None:
    """Every module that the pages name by its import, such as `kontext.settings`, is there."""
    named = {code for code in codes() if re.fullmatch(r"kontext(\.\w+)+", code)}

    assert named
    for module in named:
        path = ROOT / "src" / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), module


@each_page
def test_programs_exist(page: Path) -> None:
    """Every file of these folders that a page names anywhere, also within a command, is there."""
    named = re.findall(
        r"\b(?:benchmarks|builder|docs|src|tests)/[\w/]+\.(?:py|md|jpg)\b", page.read_text()
    )

    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_files_exist() -> None:
    """Every file and folder that the docs name, in text and in the diagram, is there."""
    [diagram] = blocks("mermaid")
    shown = {*codes(), *re.findall(r'\["([^<:"]*)', diagram)}
    named = {name for name in shown if re.fullmatch(r"[\w./]+(/|\.py|\.json)", name)} - MADE

    assert len(named) > len(MADE)
    assert {name for name in named if not any((at / name).exists() for at in HOMES)} == set()
