"""The project's own files: what the wheel needs, its version, and the list of make targets."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import kontext
from kontext.__main__ import PROGRAMS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


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
    for name in "pyproject.toml", "README.md", "LICENSE", "src":
        (source / name).symlink_to(ROOT / name)
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command = [sys.executable, "-m", *build, "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def run_local(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the local server's program."""
    command = [str(python), "-m", "kontext.local", *arguments]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, env=clean, capture_output=True, text=True, check=False)


def test_the_local_extra_has_what_the_local_server_imports(wheel: Path, tmp_path: Path) -> None:
    """Installed with its extra into an empty environment, the server starts; it has no worker."""
    local = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["local"]
    python = environment_with(tmp_path / "local", wheel, local)
    program = "import kontext.local.server, sys; print('scikit-image' in sys.modules)"
    started = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)

    assert started.stderr == ""
    assert run_local(python, "--help").returncode == 0
    assert "--workers must be at least 1" in run_local(python, "--workers", "0").stderr


def test_a_plain_install_names_the_extra(wheel: Path, tmp_path: Path) -> None:
    """Without the extra the server says in one sentence what is missing."""
    python = environment_with(tmp_path / "plain", wheel, PROJECT["dependencies"])
    ended = run_local(python)

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


def test_the_release_check_compares_the_tag_with_the_version() -> None:
    """A tag of another version makes no release."""
    check = ["make", "--silent", "release-check"]
    right = subprocess.run([*check, f"TAG=v{PROJECT['version']}"], cwd=ROOT, check=False)
    wrong = subprocess.run([*check, "TAG=v9.9.9"], cwd=ROOT, capture_output=True, check=False)

    assert right.returncode == 0
    assert wrong.returncode != 0


def test_help_shows_every_target() -> None:
    """What can be made is listed, in groups."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]+):", makefile, re.MULTILINE))
    phony = set(" ".join(re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE)).split())
    shown = subprocess.run(
        ["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert targets == phony == set(re.findall(r"^  ([a-z-]+) ", shown, re.MULTILINE))
    assert len(re.findall(r"^\S", shown, re.MULTILINE)) == len(
        re.findall(r"^##@", makefile, re.MULTILINE)
    )


def test_the_workflows_call_the_makefile() -> None:
    """What GitHub runs, a person can run: each `make` in a workflow is a target."""
    workflows = " ".join(path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml"))
    called = set(re.findall(r"run: make ([a-z-]+)", workflows))

    assert called == {"lint", "test", "codegen-check", "release-check", "wheel"}
