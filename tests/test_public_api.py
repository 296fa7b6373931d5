"""`__all__` against reality, and the commands against their modules."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import edgernn
from edgernn.cli import COMMANDS

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "edgernn": "edgernn",
    "edgernn.train": "train",
    "edgernn.quantize": "quantize",
    "edgernn.devices": "devices",
}
# What is under one of these decorators is looked up in a table; nobody imports it.
INTO_A_TABLE = ("imports(", "rule(", "emits(", "register")


def public_modules() -> dict[str, Path]:
    """Return the name and file of every module without a leading underscore."""
    modules = {}
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            if not any(part.startswith("_") for part in name.split(".")):
                modules[name] = path
    return modules


@pytest.mark.parametrize(("name", "path"), public_modules().items(), ids=list(public_modules()))
def test_all_names_what_is_public(name: str, path: Path) -> None:
    listed = getattr(importlib.import_module(name), "__all__", [])
    assert len(listed) == len(set(listed))
    assert [entry for entry in listed if not hasattr(sys.modules[name], entry)] == [], "listed, and not there"
    defined = {
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
        if not any(ast.unparse(decorator).startswith(INTO_A_TABLE) for decorator in node.decorator_list)
    }
    assert defined - set(listed) == set(), "public, and not listed"


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, as its user does."""
    code = "import sys; from edgernn.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *arguments], check=False, capture_output=True, text=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_explains_itself(command: str) -> None:
    assert callable(importlib.import_module(COMMANDS[command][0]).main)
    result = run_command(command, "--help")
    assert result.returncode == 0, result.stderr
    assert f"edgernn {command}" in result.stdout
    assert result.stderr == ""


def test_command_line_without_a_command() -> None:
    assert run_command("--version").stdout == f"edgernn {edgernn.__version__}\n"
    assert all(command in run_command("--help").stdout for command in COMMANDS)
    assert run_command().returncode == 2
    assert run_command("dance").returncode == 2


@pytest.mark.parametrize("extra", sorted({extra for _, _, extra in COMMANDS.values() if extra}))
def test_extra_that_a_command_names_exists(extra: str) -> None:
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_version_is_the_one_that_is_packaged() -> None:
    assert f'\nversion = "{edgernn.__version__}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
