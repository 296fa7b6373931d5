"""Reading `.npy` and `.npz` files that nobody has looked at yet.

`numpy.load` makes room for what a header claims before it looks for the data, and gives a dozen kinds of error. Here
the data must be there first, whatever is wrong is one `DataError`, and no pickle is read.
"""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import DataError
from edgernn.files import check_file
from edgernn.text import one_line

__all__ = ["read_arrays"]

MOST_BYTES = 2**31


def read_arrays(path: Path, most_bytes: int = MOST_BYTES) -> dict[str, NDArray[Any]]:
    """Return the arrays of an `.npz` file by name, or that of an `.npy` file as "x": numbers only, read-only.

    Raises `DataError` for anything else, and for more than `most_bytes` when unpacked.
    """
    try:
        check_file(path, most_bytes)
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                file.seek(0)
                return {"x": _parse(file.read())}
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                _check_members(members, most_bytes)
                return {item.filename.removesuffix(".npy"): _parse(archive.read(item)) for item in members}
    except OSError as error:
        raise DataError(f"{path} cannot be read as NumPy arrays: {error.strerror or error}") from error
    except Exception as error:  # a header is text that Python's own parser reads, an archive may be broken anywhere
        raise DataError(f"{path} cannot be read as NumPy arrays: {one_line(error)}") from error


def _check_members(members: list[zipfile.ZipInfo], most_bytes: int) -> None:
    for item in members:
        if not item.filename.endswith(".npy"):
            raise ValueError(f"{item.filename!r} in it is not an array (.npy)")
    if sum(item.file_size for item in members) > most_bytes:
        raise ValueError(f"it unpacks to more than {most_bytes >> 20} MB")


def _parse(content: bytes) -> NDArray[Any]:
    """Return the array in an `.npy` file's bytes, without copying them."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read_header(stream)
    if dtype.kind not in "biuf":
        raise ValueError(f"an array is of type {dtype}; expected numbers")
    size, there = math.prod(shape) * dtype.itemsize, len(content) - stream.tell()
    if min(shape, default=0) < 0 or size != there:
        raise ValueError(f"an array of shape {shape} and type {dtype} has {there} bytes")
    array = np.frombuffer(content, dtype, offset=stream.tell())
    return array.reshape(shape, order="F" if by_columns else "C")
