"""The project's pages as Markdown: their code blocks, what they name, links and anchors."""

import re
import shlex
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/kontext"
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
"""The pages whose code blocks and names are checked."""
CONTRIBUTORS = [ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = [*DOCS, *CONTRIBUTORS, ROOT / "benchmarks/README.md", *PACKAGE.rglob("README.md")]
"""The pages whose links are checked."""

PARSER = MarkdownIt().enable("table")
TOKENS = {page: PARSER.parse(page.read_text()) for page in PAGES}


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language, of all pages."""
    return [
        token.content
        for page in DOCS
        for token in TOKENS[page]
        if token.type == "fence" and token.info == language
    ]


def inline(page: Path) -> Iterator[Token]:
    """Yield what stands within the lines of a page: text, code, links and images."""
    for token in TOKENS[page]:
        yield from token.children or ()


def codes() -> list[str]:
    """Return what all pages write as code within a line."""
    return [token.content for page in DOCS for token in inline(page) if token.type == "code_inline"]


def commands(block: str) -> list[list[str]]:
    """Return the commands of a block, each split into words as a shell would."""
    lexer = shlex.shlex(block.replace("\\\n", " "), posix=True, punctuation_chars="\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    lines = groupby(lexer, lambda word: not word.strip())
    return [list(words) for is_newline, words in lines if not is_newline]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = [
        "".join(child.content for child in text.children or ())
        for opening, text in pairwise(TOKENS[page])
        if opening.type == "heading_open"
    ]
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and images that lie in this repository."""
    targets = [str(token.attrGet("href") or token.attrGet("src") or "") for token in inline(page)]
    return [target for target in targets if target and "://" not in target]


def languages() -> set[str]:
    """Return the languages of the code blocks of all pages."""
    return {token.info for page in DOCS for token in TOKENS[page] if token.type == "fence"}
