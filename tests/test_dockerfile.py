"""The Docker image: what its Dockerfile promises, and how the weights get into it.

`make image-check` tests whether it builds and runs; these tests need no build.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kontext.inference import weights
from kontext.settings import Settings

ROOT = Path(__file__).parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_granted"

Instruction = tuple[str, str]


def dockerfile() -> list[Instruction]:
    """Return the Dockerfile's instructions with their arguments, continuation lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines) if name]


def last_stage() -> list[Instruction]:
    """Return the instructions of the stage that becomes the image."""
    instructions = dockerfile()
    start = max(index for index, (name, _) in enumerate(instructions) if name == "FROM")
    return instructions[start:]


def copied_from_repository() -> list[str]:
    """Return every path that a COPY reads from the build's context."""
    copies = [rest.split() for name, rest in dockerfile() if name == "COPY"]
    return [source for words in copies if "--from" not in words[0] for source in words[:-1]]


def fetches() -> dict[str, str]:
    """Return the models that the build fetches, each with its revision."""
    arguments = dict(
        rest.split("=", 1) for name, rest in dockerfile() if name == "ARG" and "=" in rest
    )
    steps = " ".join(rest for name, rest in dockerfile() if name == "RUN")
    found = re.findall(r"/fetch_weights\.py\s+(\S+)\s+\"\$(\w+)\"", steps)
    return {model: arguments[revision] for model, revision in found}


def test_no_build_argument_or_variable_holds_a_secret() -> None:
    """Both stay readable in the image's history."""
    names = [
        word.partition("=")[0]
        for name, rest in dockerfile()
        if name in {"ARG", "ENV"}
        for word in rest.split()
    ]

    assert [name for name in names if re.search("TOKEN|SECRET|PASSWORD|KEY", name)] == []


def test_the_token_reaches_its_step_as_a_mounted_secret() -> None:
    """So it never becomes part of a layer."""
    steps = [rest for _, rest in dockerfile() if "HF_TOKEN" in rest]

    assert steps
    assert all(step.startswith("--mount=type=secret,id=HF_TOKEN ") for step in steps)


def test_the_worker_is_not_root() -> None:
    """The last USER is a number, which a host can check, and not 0."""
    users = [rest for name, rest in last_stage() if name == "USER"]

    assert int(users[-1]) > 0


def test_the_worker_never_asks_the_hub() -> None:
    """A worker must not download anything."""
    variables = " ".join(rest for name, rest in last_stage() if name == "ENV")

    assert "HF_HUB_OFFLINE=1" in variables.split()


def test_the_image_runs_the_locked_requirements() -> None:
    """The build installs the lock, which pins every package."""
    steps = [rest for name, rest in dockerfile() if name == "RUN" and "pip install" in rest]
    lock = (ROOT / "builder/requirements.txt").read_text().splitlines()

    assert "builder/requirements.txt" in copied_from_repository()
    assert all("--requirement /requirements.txt" in s or "--no-deps" in s for s in steps)
    assert [line for line in lock if not re.match(r"[a-z0-9-]+==\d", line)] == []


@pytest.mark.parametrize("source", copied_from_repository())
def test_every_copied_path_exists_and_is_in_the_build_context(source: str) -> None:
    """`.dockerignore` excludes every path that it does not name."""
    assert (ROOT / source).exists()
    assert f"!{source}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_the_command_starts_the_handler() -> None:
    """The command names a file that the build copies to that place."""
    (command,) = [json.loads(rest) for name, rest in last_stage() if name == "CMD"]
    handler = Path(command[-1])

    assert ("COPY", f"{handler.name} test_input.json {handler.parent}/") in dockerfile()
    assert ("COPY", "--from=application /app /app") in last_stage()


def test_the_weights_are_where_the_worker_looks() -> None:
    """The build's directories are the settings' defaults, and the last place of the search."""
    settings = Settings()
    places = {model: str(weights.IMAGE / model.rpartition("/")[2]) for model in fetches()}

    assert places["Falconsai/nsfw_image_detection"] == settings.safety_model_path
    assert settings.model_id in places
    assert ("COPY", f"--from=weights /models {weights.IMAGE}") in last_stage()


@pytest.mark.parametrize(("model", "revision"), fetches().items(), ids=fetches().keys())
def test_revisions_are_commits(model: str, revision: str) -> None:
    """A branch could give another image at every build."""
    assert re.fullmatch("[0-9a-f]{40}", revision)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve an open and a gated model; yields the address."""
    root = tmp_path_factory.mktemp("hub")
    for name in (
        "open/model/model_index.json",
        "open/model/vae/config.json",
        "closed/model/a.json",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    (root / "open/model/single-file.safetensors").write_text("the same weights again")
    command = [sys.executable, str(ROOT / "tests/support/stand_in_hub.py"), str(root)]
    with subprocess.Popen(
        [*command, "--gated", "closed/model", "--token", TOKEN], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        yield server.stdout.readline().strip()
        server.terminate()


def fetch(
    hub: str, into: Path, *arguments: str, token: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the build's script as the build does, with the token in a file."""
    secret = into / "token"
    secret.write_text(token)
    environment = {"HF_ENDPOINT": hub, "HF_TOKEN_PATH": str(secret), "HF_HOME": str(into / "home")}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, str(ROOT / "builder/fetch_weights.py"), "--into", str(into), *arguments],
        env={**inherited, **environment, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_script_has_a_help_text() -> None:
    """It needs no Hub."""
    asked = [sys.executable, str(ROOT / "builder/fetch_weights.py"), "--help"]
    helped = subprocess.run(asked, capture_output=True, text=True, check=True)

    assert "organisation/name on the Hub" in helped.stdout


def test_only_matching_files_are_fetched(hub: str, tmp_path: Path) -> None:
    """The patterns exclude single-file copies; the commit is recorded for the provenance."""
    done = fetch(hub, tmp_path, "open/model", COMMIT, "model_index.json", "vae/*")
    fetched = tmp_path / "model"

    assert done.stdout.strip() == str(fetched)
    assert {path.name for path in fetched.iterdir()} == {".cache", "model_index.json", "vae"}
    assert weights.find("open/model", str(fetched)) == weights.Weights(fetched, COMMIT)


def test_the_secret_opens_a_gated_model(hub: str, tmp_path: Path) -> None:
    """The token is read from the file that the build mounts."""
    done = fetch(hub, tmp_path, "closed/model", COMMIT, "*.json", token=TOKEN)

    assert done.returncode == 0
    assert (tmp_path / "model/a.json").read_text() == "{}"


GATED = (
    "closed/model is gated: accept its licence at https://huggingface.co/closed/model and give "
    "the build the token of that account (--secret id=HF_TOKEN,env=HF_TOKEN)"
)
NO_COMMIT = "0" * 40


@pytest.mark.parametrize(
    ("wanted", "token", "sentence"),
    [
        pytest.param(f"closed/model {COMMIT} *", "", GATED, id="gated without a token"),
        pytest.param(f"closed/model {COMMIT} *", "hf_other", GATED, id="licence not accepted"),
        pytest.param(
            f"open/model {COMMIT} *",
            "expired",
            "the Hub refused the build's HF_TOKEN for open/model",
            id="token that is none",
        ),
        pytest.param(
            f"no/model {COMMIT} *",
            "",
            "no/model does not exist, or the build's HF_TOKEN may not see it",
            id="no such model",
        ),
        pytest.param(
            f"open/model {NO_COMMIT} *",
            "",
            f"open/model has no revision {NO_COMMIT}",
            id="no such revision",
        ),
        pytest.param(
            f"open/model {COMMIT} unet/*",
            "",
            f"open/model at {COMMIT} holds no unet/*",
            id="no such file",
        ),
        pytest.param(
            f"open/model/vae {COMMIT} *",
            "",
            "open/model/vae is not the name of a model (organisation/name)",
            id="not a name",
        ),
    ],
)
def test_a_failed_fetch_fails_the_build_with_one_sentence(
    hub: str, tmp_path: Path, wanted: str, token: str, sentence: str
) -> None:
    """It says what to do, without a traceback."""
    failed = fetch(hub, tmp_path, *wanted.split(), token=token)

    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == f"Weights not fetched: {sentence}"
    assert "Traceback" not in failed.stderr
