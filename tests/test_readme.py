"""README and docs tell the truth: every block of code in them is checked here."""

import json
import re
import subprocess
import sys
from itertools import pairwise

import pytest
from codegen_check.__main__ import cases

from kontext.contract.fields import extension_fields
from kontext.contract.request import EditRequest
from tests.support.pages import ROOT, blocks, codes, commands, languages

COMMANDS = [command for block in blocks("bash") for command in commands(block)]


def of(program: str) -> list[list[str]]:
    """Return the pages' commands of a program."""
    found = [words for words in COMMANDS if words[0] == program]
    assert found, f"the pages show no {program}"
    return found


def test_every_block_is_checked() -> None:
    """A language or a program that is new to the pages needs a check of its own here."""
    assert languages() == {"bash", "json", "mermaid", "text"}
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


def test_the_test_input_is_the_documented_example() -> None:
    """`test_input.json` has every documented field, with the documented values."""
    given = json.loads((ROOT / "test_input.json").read_text())["input"]
    request = EditRequest.parse(given)

    assert given.keys() == EditRequest.model_fields.keys() - extension_fields()
    assert request == EditRequest(prompt=request.prompt, image=request.image)
