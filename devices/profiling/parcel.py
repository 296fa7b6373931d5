"""What is sent to a board: EdgeRNN itself, as it is installed here, and the wheels that fit there."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import edgernn
from edgernn.errors import UsageError

__all__ = ["check_wheels", "edgernn_archive", "fitting", "packages"]

DESKTOP = ("train", "quantize", "testing")  # what a board never imports
NAME = re.compile(r"^(?P<name>[^-]+)-[^-]+(-\d[^-]*)?-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl$")


def edgernn_archive() -> bytes:
    """Return the modules of this EdgeRNN that a board needs, as a ZIP file: the very code that is running here."""
    (root,) = map(Path, edgernn.__path__)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in sorted({root, *(p for p in root.iterdir() if p.is_dir() and p.name not in DESKTOP)}):
            for path in sorted(folder.rglob("*.py") if folder != root else folder.glob("*.py")):
                archive.write(path, Path("edgernn") / path.relative_to(root))
    return buffer.getvalue()


def check_wheels(folder: str | Path) -> list[Path]:
    """Return the wheels of a folder; raise `UsageError` if there are none."""
    wheels = sorted(Path(folder).glob("*.whl"))
    if not wheels:
        raise UsageError(
            f"--wheels {folder}: there are no wheels in it; get them, for a Raspberry Pi with Python 3.11 say, by: "
            "pip download --only-binary=:all: --python-version 3.11 --platform manylinux_2_28_aarch64 "
            f"--platform manylinux2014_aarch64 -d {folder} numpy ai-edge-litert"
        )
    return wheels


def fitting(wheels: Sequence[Path], version: Sequence[int], machine: str) -> list[Path]:
    """Return the wheels that may fit a Python and a machine: no more than these is sent; pip there has the last word.

    >>> [path.name for path in fitting([Path("a-1-py3-none-any.whl"), Path("b-1-cp311-cp311-linux_armv7l.whl")],
    ...                                (3, 11, 2), "aarch64")]
    ['a-1-py3-none-any.whl']
    """
    pythons = {"py3", f"py3{version[1]}", f"cp3{version[1]}"}
    return [wheel for wheel in wheels if _fits(wheel.name, pythons, version[1], machine)]


def _fits(name: str, pythons: set[str], minor: int, machine: str) -> bool:
    parts = NAME.match(name)
    if parts is None:
        return False
    tags = parts["python"].split(".")
    stable = parts["abi"] == "abi3" and any(t[:3] == "cp3" and t[3:].isdigit() and int(t[3:]) <= minor for t in tags)
    place = parts["platform"]
    return (stable or not pythons.isdisjoint(tags)) and (place == "any" or place.endswith(machine))


def packages(wheels: Sequence[Path]) -> set[str]:
    """Return the names of packages among wheels, as pip writes them."""
    found = (NAME.match(wheel.name) for wheel in wheels)
    return {re.sub(r"[-_.]+", "-", parts["name"]).lower() for parts in found if parts}
