"""What is sent to a board: EdgeRNN itself, as it is installed here, and the wheels that fit there."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import edgernn
from edgernn.errors import UsageError

__all__ = ["check_wheels", "download", "edgernn_archive", "fitting", "glibc", "packages", "unpacked_bytes"]

DESKTOP = ("train", "quantize", "testing")  # what a board never imports
OLDER = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
NEWER = ((2, 28), (2, 27))
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
            + download("ai-edge-litert", (3, 11), "aarch64", (2, 36), str(folder))
        )
    return wheels


def download(
    runtime: str, version: Sequence[int], machine: str, libc: tuple[int, int] | None, folder: str = "wheels"
) -> str:
    """Return the command that gets wheels for a board; pip takes no newer or older platform for the same.

    >>> download("onnxruntime", (3, 11, 2), "x86_64", (2, 17))
    'pip download --only-binary=:all: --python-version 3.11 --platform manylinux2014_x86_64 -d wheels numpy onnxruntime'
    """
    names = [f"manylinux_{major}_{minor}" for major, minor in NEWER if libc is None or (major, minor) <= libc]
    platforms = " ".join(f"--platform {name}_{machine}" for name in [*names, "manylinux2014"])
    python = ".".join(map(str, version[:2]))
    return f"pip download --only-binary=:all: --python-version {python} {platforms} -d {folder} numpy {runtime}"


def glibc(told: Sequence[str]) -> tuple[int, int] | None:
    """Read what `platform.libc_ver()` says; None where it is another library, or does not tell.

    >>> glibc(["glibc", "2.36"]), glibc(["", ""])
    ((2, 36), None)
    """
    found = re.fullmatch(r"(\d+)\.(\d+).*", told[1]) if told[:1] == ["glibc"] else None
    return (int(found[1]), int(found[2])) if found else None


def fitting(
    wheels: Sequence[Path], version: Sequence[int], machine: str, libc: tuple[int, int] | None = None
) -> list[Path]:
    """Return the wheels that fit a Python, a machine and its C library: of each package the newest.

    >>> [path.name for path in fitting([Path("a-1-py3-none-any.whl"), Path("b-1-cp311-cp311-linux_armv7l.whl")],
    ...                                (3, 11, 2), "aarch64")]
    ['a-1-py3-none-any.whl']
    """
    newest: dict[str, Path] = {}
    for wheel in sorted(wheels, key=lambda path: _version(path.name)):
        if _fits(wheel.name, version[1], machine, libc):
            newest[wheel.name.partition("-")[0].lower()] = wheel
    return [wheel for wheel in wheels if wheel in newest.values()]


def _version(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name.split("-")[1] if "-" in name else "")]


def _fits(name: str, minor: int, machine: str, libc: tuple[int, int] | None) -> bool:
    parts = NAME.match(name)
    if parts is None:
        return False
    tags = parts["python"].split(".")
    stable = parts["abi"] == "abi3" and any(t[:3] == "cp3" and t[3:].isdigit() and int(t[3:]) <= minor for t in tags)
    if not stable and {"py3", f"py3{minor}", f"cp3{minor}"}.isdisjoint(tags):
        return False
    return any(_place(place, machine, libc) for place in parts["platform"].split("."))


def _place(place: str, machine: str, libc: tuple[int, int] | None) -> bool:
    """Return whether a platform's tag is that of a machine with a C library at least so new as it wants."""
    if place == "any" or place == f"linux_{machine}":
        return True
    found = re.fullmatch(rf"(manylinux(?:_\d+_\d+|1|2010|2014))_{re.escape(machine)}", place)
    if found is None:
        return False
    numbers = [int(number) for number in re.findall(r"_(\d+)", found[1])]
    wanted = tuple(numbers) if len(numbers) == 2 else OLDER[found[1]]
    return libc is None or wanted <= libc


def packages(wheels: Sequence[Path]) -> set[str]:
    """Return the names of packages among wheels, as pip writes them."""
    found = (NAME.match(wheel.name) for wheel in wheels)
    return {re.sub(r"[-_.]+", "-", parts["name"]).lower() for parts in found if parts}


def unpacked_bytes(wheel: Path) -> int:
    """Return what a wheel takes when it is unpacked; raise `UsageError` where it is none."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return sum(item.file_size for item in archive.infolist())
    except (OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"--wheels: {wheel} is no wheel: {error}") from error
