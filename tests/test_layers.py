"""The rules on imports, read from the packages' own docstrings."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kontext

ROOT = Path(kontext.__file__).parent
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if path != ROOT / "__init__.py"
}
"""Each module's name without `kontext.`, and its file."""
PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
HEAVY = {"torch", "torchao", "diffusers", "transformers"}
RESTRICTED = HEAVY | {"runpod"}
"""Packages that a rule must name before a module may import them."""


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def words(text: str) -> set[str]:
    """Return the names in a comma-separated list."""
    return set(re.findall(r"[\w.]+", text)) - {"nothing"}


def rules() -> dict[str, set[str]]:
    """Return what each package and each module beside them may import."""
    table = re.findall(
        r"^    (\w+) +imports: (.*(?:\n {20,}.*)*)", docstring(ROOT / "__init__.py"), re.MULTILINE
    )
    stated = {name: words(allowed) for name, allowed in table}
    for package in PACKAGES:
        found = re.search(
            r"May import: ([^.]*(?:\.\w[^.]*)*)\.", docstring(ROOT / package / "__init__.py")
        )
        assert found, f"kontext.{package} does not say what it may import"
        stated[package] = words(found[1])
    return stated


RULES = rules()


def imports(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports, also inside functions and for type checking."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_forbidden(module: str, imported: str) -> bool:
    """Return whether a module of this project must not import something."""
    own = module.partition(".")[0]
    allowed = RULES[own] | {own, "__version__"}
    if imported.partition(".")[0] == "kontext":
        name = imported.removeprefix("kontext.")
        return not any(name == rule or name.startswith(f"{rule}.") for rule in allowed)
    return imported.partition(".")[0] in RESTRICTED - allowed


def test_every_module_has_a_rule() -> None:
    """A new package or module says what it may import before it is used."""
    assert {name.partition(".")[0] for name in SOURCES} == set(RULES)


@pytest.mark.parametrize("module", SOURCES)
def test_a_module_imports_what_its_package_may(module: str) -> None:
    """Imports inside functions and for type checking count too."""
    assert not [name for name in imports(SOURCES[module]) if is_forbidden(module, name)]


def test_a_broken_rule_is_found() -> None:
    """Examples of what the rules forbid."""
    assert is_forbidden("contract.request", "kontext.settings.Settings")
    assert is_forbidden("images.fetch", "kontext.storage.bucket.Bucket")
    assert is_forbidden("startup.boot", "torch")
    assert is_forbidden("worker", "runpod.serverless")
    assert is_forbidden("local.server", "kontext.storage.bucket.Bucket")
    assert not is_forbidden("local.server", "kontext.storage.embedded_bucket")


def test_only_inference_imports_torch() -> None:
    """Everything else starts without torch."""
    assert [name for name, allowed in RULES.items() if allowed & HEAVY] == ["inference"]


def test_the_packages_have_an_order() -> None:
    """Imports go down only: no two packages import each other, directly or indirectly."""
    below = {name: {rule.partition(".")[0] for rule in rules} for name, rules in RULES.items()}
    remaining = set(below)
    while remaining:
        lowest = {name for name in remaining if not below[name] & remaining}
        assert lowest, f"these import each other: {sorted(remaining)}"
        remaining -= lowest


def test_no_import_ring() -> None:
    """No two modules import each other, directly or indirectly."""
    imported = {name: set(imports(path)) for name, path in SOURCES.items()}
    below = {
        name: {module for module in SOURCES if any(_is_of(module, each) for each in found)}
        for name, found in imported.items()
    }
    remaining = set(below)
    while remaining:
        lowest = {name for name in remaining if not below[name] & (remaining - {name})}
        assert lowest, f"these import each other: {sorted(remaining)}"
        remaining -= lowest


def _is_of(module: str, imported: str) -> bool:
    return imported == f"kontext.{module}" or imported.rpartition(".")[0] == f"kontext.{module}"


@pytest.mark.parametrize(
    "module", ["contract.request", "inference.executor", "worker", "settings", "local.__main__"]
)
def test_a_light_module_stays_light(module: str) -> None:
    """Importing it loads neither torch nor Runpod's SDK."""
    program = f"import sys, kontext.{module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    assert not RESTRICTED & set(loaded)


def test_a_checkout_that_is_not_installed_can_be_imported(tmp_path: Path) -> None:
    """As on a rented machine; its version is unknown."""
    (tmp_path / "kontext").mkdir()
    shutil.copy(kontext.__file__, tmp_path / "kontext")
    program = "import sys; sys.path.append(sys.argv[1]); import kontext; print(kontext.__version__)"
    without_packages = [sys.executable, "-I", "-S", "-c", program, str(tmp_path)]
    said = subprocess.run(without_packages, capture_output=True, text=True, check=True).stdout

    assert said.strip() == "unknown"
