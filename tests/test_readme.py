"""The README tells the truth: every block of code in it is checked here."""

import json
import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

from kontext.contract.request import EditRequest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^( *)```(\w+)\n(.*?)^ *```", README, re.DOTALL | re.MULTILINE)
COMMANDS = [
    command
    for indent, language, body in BLOCKS
    if language == "bash"
    for command in re.sub(rf"^{indent}", "", body, flags=re.MULTILINE)
    .replace("\\\n", " ")
    .strip()
    .split("\n" if "'{\n" not in body else "\0")
]
JSON_BLOCKS = [body for _, language, body in BLOCKS if language == "json"]


def of(program: str) -> list[list[str]]:
    """Return the README's commands of a program, split as a shell would."""
    found = [words for words in map(shlex.split, COMMANDS) if words[0] == program]
    assert found, f"the README shows no {program}"
    return found


def test_every_command_is_checked() -> None:
    """A command of another program needs a check of its own here."""
    programs = {shlex.split(command)[0] for command in COMMANDS}

    assert programs == {"make", "docker", "curl", ".venv/bin/python"}
    assert {language for _, language, _ in BLOCKS} == {"bash", "json"}


def test_make_targets_exist() -> None:
    """`make -n` knows every target that the page names, in blocks and in running text."""
    named = {words[1] for words in of("make")} | set(re.findall(r"`make ([a-z-]+)`", README))
    for target in named:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_the_first_request_is_valid() -> None:
    """The cURL example posts an `input` that the worker accepts, then asks for the job's status."""
    posted, asked = of("curl")

    EditRequest.parse(json.loads(posted[posted.index("-d") + 1])["input"])
    assert posted[3].endswith("/run")  # a cold /runsync ends in HTTP 524
    assert asked[1].endswith("/status/$JOB_ID")


def test_the_workers_own_modes() -> None:
    """The local modes shown name the handler, flags of the SDK, and a valid input."""
    for words in of(".venv/bin/python"):
        assert words[1] == "handler.py"
        assert set(words[2::2]) <= {"--test_input", "--rp_serve_api"}
        for test_input in words[3::2]:
            EditRequest.parse(json.loads(test_input)["input"])


def test_docker_commands_fit_the_dockerfile() -> None:
    """Every build argument and secret in the page is one that the Dockerfile reads."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    for words in of("docker"):
        for option, value in pairwise(words):
            if option == "--build-arg":
                assert re.search(rf"^ARG {value.partition('=')[0]}\b", dockerfile, re.MULTILINE)
            if option == "--secret":
                assert value.split(",")[0] in dockerfile


def test_responses_shown_have_the_documented_fields() -> None:
    """Each response is JSON with the envelope of the contract; the ended job has its output."""
    queued, ended = map(json.loads, JSON_BLOCKS)

    assert queued.keys() == {"id", "status"}
    assert ended.keys() == {
        "id", "status", "delayTime", "executionTime", "workerId", "output"
    }  # fmt: skip
    assert queued["id"] == ended["id"]
    assert ended["output"].keys() == {"image_url", "cost"}


def test_the_test_input_is_the_documented_example() -> None:
    """`test_input.json` has every documented field, with the documented values."""
    given = json.loads((ROOT / "test_input.json").read_text())["input"]
    request = EditRequest.parse(given)

    assert given.keys() == EditRequest.model_fields.keys()
    assert request == EditRequest(prompt=request.prompt, image=request.image)
