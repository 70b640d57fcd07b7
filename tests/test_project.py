"""The project's own files: what the wheel needs, its version, and the list of make targets."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path

import httpx
import pytest
import release
from packaging.requirements import Requirement

import kontext
from kontext.__main__ import PROGRAMS
from kontext.local.__main__ import EXTRA

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WITHOUT_PYTHONPATH = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def required(requirements: list[str], extra: str = "") -> Iterator[Requirement]:
    """Yield those requirements that hold on this machine, for an extra or without one."""
    for requirement in map(Requirement, requirements):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def closure(requirements: list[str]) -> set[str]:
    """Return the names of all installed distributions that the requirements need in turn."""
    found: set[tuple[str, str]] = set()
    waiting = [(r.name, extra) for r in required(requirements) for extra in ("", *r.extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) not in found:
            found.add((name, extra))
            for r in required(distribution(name).requires or [], extra):
                waiting += [(r.name, other) for other in ("", *r.extras)]
    return {name for name, _ in found}


def environment_with(folder: Path, wheel: Path, requirements: list[str]) -> Path:
    """Make an environment of the wheel and of what the requirements need, and nothing else.

    The packages are links to those that the tests run with, so that nothing is downloaded.

    Returns:
        Its Python.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    for name in closure(requirements):
        link_distribution(name, site_packages, folder / "bin")
    unzip = [sys.executable, "-m", "zipfile", "-e", str(wheel), str(site_packages)]
    subprocess.run(unzip, check=True)
    return folder / "bin/python"


def link_distribution(name: str, site_packages: Path, programs: Path) -> None:
    """Link a distribution's packages and programs."""
    installed = distribution(name)
    for top in {file.parts[0] for file in installed.files or ()} - {".."}:
        if not (site_packages / top).exists():
            (site_packages / top).symlink_to(str(installed.locate_file(top)))
    for file in installed.files or ():
        if file.parts[-2:-1] == ("bin",) and not (programs / file.name).exists():
            (programs / file.name).symlink_to(str(installed.locate_file(file)))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, as `make wheel` builds it, in a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in "pyproject.toml", "README.md", "LICENSE":
        shutil.copy(ROOT / name, source)
    built = shutil.ignore_patterns("*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "src", source / "src", ignore=built)
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command = [sys.executable, "-m", *build, "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


@contextmanager
def serving(python: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the local server on a free port, with a worker that takes no job."""
    handler = folder / "handler.py"
    handler.write_text("import signal; signal.pause()")
    options = ["--port", "0", "--handler", str(handler), "--data", str(folder / "data")]
    command = [str(python), "-m", "kontext.local", *options]
    with subprocess.Popen(
        command, env=WITHOUT_PYTHONPATH, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            yield server
        finally:
            server.terminate()


def test_the_local_extra_has_what_the_local_server_imports(wheel: Path, tmp_path: Path) -> None:
    """Installed with its extra into an empty environment, the server starts and answers."""
    local = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["local"]
    python = environment_with(tmp_path / "local", wheel, local)
    with serving(python, tmp_path) as server:
        assert server.stdout
        said = next(line for line in server.stdout if line.strip())
        [page] = re.findall(r"http://\S+/docs", said)
        answer = httpx.get(page)

    assert answer.status_code == 200
    assert server.returncode == 0


def test_the_local_server_looks_for_the_packages_of_its_extra() -> None:
    """It names the extra if one of them is missing."""
    assert {Requirement(text).name for text in PROJECT["optional-dependencies"]["local"]} == {
        *EXTRA
    }


def test_the_server_looks_for_what_the_extra_declares() -> None:
    """The packages whose absence it reports are those that `kontext[local]` installs."""
    declared = [Requirement(each).name for each in PROJECT["optional-dependencies"]["local"]]

    assert list(EXTRA) == declared


def test_a_plain_install_names_the_extra(wheel: Path, tmp_path: Path) -> None:
    """Without the extra the server says in one sentence what is missing."""
    python = environment_with(tmp_path / "plain", wheel, PROJECT["dependencies"])
    ended = subprocess.run(
        [python, "-m", "kontext.local"],
        env=WITHOUT_PYTHONPATH,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 1
    assert ended.stderr.strip() == (
        "kontext.local needs more packages; install them with: pip install 'kontext[local]'"
    )


def test_the_wheel_holds_the_packages_and_the_stand_in(wheel: Path) -> None:
    """Every module is part of it, and the weights that a laptop runs."""
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(wheel)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    modules = [str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")]

    assert not [module for module in modules if module not in listed]
    assert "stand_in_weights/model_index.json" in listed


def test_the_version_is_written_once() -> None:
    """`pyproject.toml` says it; the package and `python -m kontext` read it from there."""
    said = subprocess.run(
        [sys.executable, "-m", "kontext", "--version"], capture_output=True, text=True, check=True
    ).stdout

    assert kontext.__version__ == PROJECT["version"]
    assert said.split() == ["kontext", PROJECT["version"]]


def test_python_m_kontext_says_what_can_be_run() -> None:
    """Every program that it names exists."""
    said = subprocess.run(
        [sys.executable, "-m", "kontext"], capture_output=True, text=True, check=True
    ).stdout
    modules = re.findall(r"python -m ([\w.]+)", PROGRAMS)

    assert PROGRAMS.strip() in said
    assert modules == ["kontext.demo", "kontext.local"]
    assert (ROOT / "handler.py").is_file()


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_python_m_kontext_needs_no_package(option: str) -> None:
    """It starts without site-packages, so without torch too."""
    environment = {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-S", "-m", "kontext", option]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert "kontext" in said.stdout


def release_check(tag: str) -> subprocess.CompletedProcess[str]:
    """Run `make release-check` for a tag."""
    command = ["make", "--silent", "release-check", f"TAG={tag}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_tag_with_the_version_is_released() -> None:
    """Its notes are the version's section of the changelog."""
    checked = release_check(f"v{PROJECT['version']}")

    assert checked.returncode == 0
    assert checked.stdout.strip()
    assert checked.stdout in (ROOT / "CHANGELOG.md").read_text()


def test_another_tag_is_not_released() -> None:
    """The error names the tag and the version."""
    checked = release_check("v9.9.9")

    assert checked.returncode != 0
    assert f"the tag is 'v9.9.9', the version {PROJECT['version']}" in checked.stderr


def test_release_notes_are_one_section() -> None:
    """They end where the section of the next version begins; a missing section is an error."""
    changelog = "# Log\n\n## Unreleased\n\nNew\n\n## 0.2.0 - 2026-12-01\n\nTwo\n\n## 0.1.0\n\nOne\n"

    assert release.notes(changelog, "0.2.0") == "Two"
    assert release.notes(changelog, "0.1.0") == "One"
    with pytest.raises(SystemExit, match=r"has no section 0\.3\.0"):
        release.notes(changelog, "0.3.0")


TARGETS = set(re.findall(r"^([a-z][a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_help_shows_every_target() -> None:
    """Each has a line in one of the groups that the Makefile names."""
    makefile = (ROOT / "Makefile").read_text()
    phony = set(" ".join(re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE)).split())
    shown = subprocess.run(
        ["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    headings = re.findall(r"^\S.*", shown, re.MULTILINE)

    assert TARGETS == phony == set(re.findall(r"^  ([a-z-]+) ", shown, re.MULTILINE))
    assert headings == re.findall(r"^##@ (.*)", makefile, re.MULTILINE)
    assert shown.lstrip().startswith(headings[0])


@pytest.mark.parametrize(
    "page", ["CHANGELOG.md", "CONTRIBUTING.md", ".github/PULL_REQUEST_TEMPLATE.md"]
)
def test_the_pages_for_contributors_name_targets(page: str) -> None:
    """Each `make` in them can be run."""
    named = set(re.findall(r"`[^`\n]*make ([a-z-]+)", (ROOT / page).read_text()))

    assert named
    assert named <= TARGETS


def test_the_workflows_call_the_makefile() -> None:
    """What GitHub runs, a person can run: each `make` in a workflow is a target."""
    workflows = " ".join(path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml"))
    called = set(re.findall(r"run: make (?:--silent )?([a-z-]+)", workflows))

    assert called == {"lint", "test", "codegen-check", "release-check", "image", "wheel"}
