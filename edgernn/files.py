"""Reading files that nobody has looked at yet: never a pipe or a device, and never more than was agreed on."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

from edgernn.errors import NotThereError

__all__ = ["check_file", "check_there", "read_file"]


def check_there(path: Path, expected: str) -> None:
    """Raise `NotThereError` for a path that leads to nothing: the request is wrong then, and not what it met."""
    if not path.exists():
        raise NotThereError(f"{path} does not exist; expected {expected}")


def check_file(path: Path, most: int | None = None) -> int:
    """Return the size of a file, bytes; raise `OSError` if it is none, or larger than `most`.

    A pipe would let its reader wait for ever, and a device gives without end.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    if most is not None and found.st_size > most:
        raise OSError(errno.EFBIG, f"it has {found.st_size} bytes, more than the {most} that are expected", str(path))
    return found.st_size


def read_file(path: Path, most: int) -> bytes:
    """Return what a file holds; raise `OSError` if it is none, or larger than `most` bytes."""
    check_file(path, most)
    with path.open("rb") as file:
        return file.read(most + 1)
