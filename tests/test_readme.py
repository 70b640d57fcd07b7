"""README and docs tell the truth: every code block, link and name in them is checked here."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path

import pytest
from codegen_check.__main__ import cases
from markdown_it import MarkdownIt
from markdown_it.token import Token

from kontext.contract.request import EditRequest
from kontext.settings import Settings
from tests.test_layers import PACKAGES, RULES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src/kontext"
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
"""The pages whose code blocks and names are checked."""
PAGES = [*DOCS, ROOT / "benchmarks/README.md", *PACKAGE.rglob("README.md")]
"""The pages whose links are checked."""

PARSER = MarkdownIt().enable("table")
TOKENS = {page: PARSER.parse(page.read_text()) for page in PAGES}
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


COMMANDS = [command for block in blocks("bash") for command in commands(block)]


def of(program: str) -> list[list[str]]:
    """Return the pages' commands of a program."""
    found = [words for words in COMMANDS if words[0] == program]
    assert found, f"the pages show no {program}"
    return found


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


def test_every_block_is_checked() -> None:
    """A language or a program that is new to the pages needs a check of its own here."""
    languages = {token.info for page in DOCS for token in TOKENS[page] if token.type == "fence"}

    assert languages == {"bash", "json", "mermaid", "text"}
    assert {words[0] for words in COMMANDS} == {"make", "docker", "curl", "git", ".venv/bin/python"}


def test_make_targets_exist() -> None:
    """`make -n` knows every target that the pages name, in blocks and in running text."""
    shown = [*of("make"), *(code.split() for code in codes() if re.match(r"make [a-z]", code))]
    for target in {words[1] for words in shown}:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_the_checkout_that_is_cloned_is_the_one_that_is_compared() -> None:
    """`git clone` makes the directory that the next command names."""
    [[_, verb, url]] = of("git")

    assert verb == "clone"
    assert ["make", "reference-check", f"BFL={url.rpartition('/')[2]}"] in of("make")


def test_the_first_request_is_valid() -> None:
    """The cURL example posts an `input` that the worker accepts, then asks for the job's status."""
    posted, asked = of("curl")

    EditRequest.parse(json.loads(posted[posted.index("-d") + 1])["input"])
    assert posted[3].endswith("/run")  # a cold /runsync ends in HTTP 524
    assert asked[1].endswith("/status/$JOB_ID")


def test_the_workers_own_modes() -> None:
    """The local modes shown name the handler, flags of the SDK, and a valid input."""
    shown = [words for words in of(".venv/bin/python") if words[1] != "-m"]
    assert shown
    for words in shown:
        assert words[1] == "handler.py"
        assert set(words[2::2]) <= {"--test_input", "--rp_serve_api"}
        for test_input in words[3::2]:
            EditRequest.parse(json.loads(test_input)["input"])


@pytest.mark.parametrize("module", ["kontext.demo", "kontext.local"])
def test_options_exist(module: str) -> None:
    """The programs have the options that the pages give to them."""
    said = subprocess.run(
        [sys.executable, "-m", module, "--help"], check=True, capture_output=True, text=True
    ).stdout
    shown = {
        word
        for words in of(".venv/bin/python")
        if words[1:3] == ["-m", module]
        for word in words[3:]
        if word.startswith("--")
    }
    if module == "kontext.local":  # whose options the text names too
        shown |= {code.split()[0] for code in codes() if code.startswith("--")}

    assert shown
    assert shown <= set(re.findall(r"--[a-z-]+", said))


def test_docker_commands_fit_the_dockerfile() -> None:
    """Every build argument and secret in the pages is one that the Dockerfile reads."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    for words in of("docker"):
        for option, value in pairwise(words):
            if option == "--build-arg":
                assert re.search(rf"^ARG {value.partition('=')[0]}\b", dockerfile, re.MULTILINE)
            if option == "--secret":
                assert value.split(",")[0] in dockerfile


def test_responses_shown_have_the_documented_fields() -> None:
    """Each response is JSON with the envelope of the contract; the ended job has its output."""
    queued, ended = map(json.loads, blocks("json"))

    assert queued.keys() == {"id", "status"}
    assert ended.keys() == {
        "id", "status", "delayTime", "executionTime", "workerId", "output"
    }  # fmt: skip
    assert queued["id"] == ended["id"]
    assert ended["output"].keys() == {"image_url", "cost"}


def test_the_table_of_kernels_has_every_case() -> None:
    """Its rows are the cards, precisions and attentions that `make codegen-check` compiles."""
    [table] = [block for block in blocks("text") if "spilled" in block]
    rows = [re.split(r"  +", line)[:3] for line in table.splitlines()[2:]]

    assert rows == [
        [case.capability, case.plan.transformer, case.plan.float8_attention or case.plan.attention]
        for case in cases()
    ]


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


def test_the_test_input_is_the_documented_example() -> None:
    """`test_input.json` has every documented field, with the documented values."""
    given = json.loads((ROOT / "test_input.json").read_text())["input"]
    request = EditRequest.parse(given)

    assert given.keys() == EditRequest.model_fields.keys()
    assert request == EditRequest(prompt=request.prompt, image=request.image)
