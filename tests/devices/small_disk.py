"""A small disk, to be filled up for real."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.devices.needs import SINCE

__all__ = ["fill", "small_disk"]


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount one; give the place of a file to fill it with."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False).returncode:
        pytest.skip(f"{SINCE}: this system does not let the tests mount a small disk")
    try:
        yield folder / "filler"
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(filler: Path) -> None:
    """Leave no room."""
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(400_000))
