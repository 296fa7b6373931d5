"""Result files: one profile, or several in a list."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Sequence
from pathlib import Path

from edgernn.errors import FailureError, UsageError
from edgernn.files import check_there, read_file
from edgernn.profile import Profile

__all__ = ["read_profiles", "write_profiles", "write_text"]

MOST_BYTES = 256 * 2**20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # nobody named a wrong path


def write_profiles(path: str, profiles: Sequence[Profile]) -> None:
    """Write one profile as it is, and several as a list."""
    values = [profile.to_dict() for profile in profiles]
    write_text(path, json.dumps(values[0] if len(values) == 1 else {"profiles": values}, indent=1) + "\n")


def write_text(path: str, text: str) -> None:
    """Write a file whole or not at all; a pipe or a device is written as it is."""
    target = Path(path)
    fresh = target.parent / f".{target.name}.new"
    try:
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="utf-8")
            return
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        kind = FailureError if error.errno in FULL else UsageError
        raise kind(f"the file {path} cannot be written: {error.strerror}") from error


def read_profiles(path: str) -> list[Profile]:
    """Read what `edgernn profile --json` wrote."""
    check_there(Path(path), f"a result of edgernn profile ARTIFACT --json {path}")
    try:
        values = json.loads(read_file(Path(path), MOST_BYTES))
        found = values.get("profiles", [values])
        return [Profile.from_dict(item) for item in found]
    except OSError as error:
        raise FailureError(f"{path} cannot be read: {error.strerror}") from error
    except (AttributeError, TypeError, ValueError, RecursionError, FailureError) as error:
        reason = str(error) if isinstance(error, FailureError) else "it is not the JSON of edgernn profile"
        raise FailureError(f"{path}: {reason}") from error
