"""What is installed is complete, and each part needs no more than it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Run in a fresh interpreter: imports every module but the desktop's, with nothing to import from but NumPy and the
# standard library. So a runtime or a sound library is imported where it is used, not at the top of a file.
IMPORT_ALL = """
import importlib, pkgutil, sys

DESKTOP = ("edgernn.train", "edgernn.quantize")

class OnlyNumPy:
    allowed = {*sys.stdlib_module_names, "numpy", "edgernn"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.allowed or name.startswith(DESKTOP):
            raise ModuleNotFoundError(f"a device may lack {name}", name=name)

def visit(name):
    print(name)
    for child in pkgutil.iter_modules(getattr(importlib.import_module(name), "__path__", [])):
        if f"{name}.{child.name}" not in DESKTOP:
            visit(f"{name}.{child.name}")

sys.meta_path.insert(0, OnlyNumPy())
visit("edgernn")
"""


def test_every_package_is_listed() -> None:
    setup = PYPROJECT["tool"]["setuptools"]
    folders = {"edgernn": "edgernn", **setup["package-dir"]}
    found = [
        ".".join((name, *init.parent.relative_to(ROOT / folder).parts))
        for name, folder in folders.items()
        for init in (ROOT / folder).rglob("__init__.py")
    ]
    assert sorted(found) == sorted(setup["packages"])  # lists: a package named twice is a mistake too


def test_every_folder_with_modules_is_a_package() -> None:
    for folder in ("edgernn", *PYPROJECT["tool"]["setuptools"]["package-dir"].values()):
        for module in (ROOT / folder).rglob("*.py"):
            assert (module.parent / "__init__.py").is_file(), f"{module} lies in no package: it would not ship"


def test_links_for_static_tools_point_at_the_folders() -> None:
    for name, folder in PYPROJECT["tool"]["setuptools"]["package-dir"].items():
        assert (ROOT / name.replace(".", "/")).resolve() == ROOT / folder


def test_core_and_devices_import_with_numpy_alone() -> None:
    result = subprocess.run([sys.executable, "-c", IMPORT_ALL], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    imported = set(result.stdout.split())
    assert {"edgernn.cli", "edgernn.spec", "edgernn.devices"} <= imported
    assert "edgernn.quantize" not in imported
