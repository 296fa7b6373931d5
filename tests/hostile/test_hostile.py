"""Malformed inputs, each through the command line: one clear message, and nothing else happens."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile import artifacts, data_files, keras_files, onnx_files, saved_models
from tests.hostile.bases import make_bases
from tests.hostile.case import Bases, Case
from tests.hostile.worker import Worker

CASES: dict[str, Case] = {}
for name, case in itertools.chain(
    artifacts.cases(), keras_files.cases(), onnx_files.cases(), data_files.cases(), saved_models.cases()
):
    assert name not in CASES, name
    CASES[name] = case

PATIENCE_S = 60  # for any of them, on a busy machine; each takes a small part of a second
LONGEST = 900  # letters of a message


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return make_bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.stop()


def test_there_are_enough() -> None:
    assert len(CASES) >= 200


# Together they take minutes on a busy machine: one in twenty-four is enough for a first look.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if place % 24 else ()) for place, name in enumerate(CASES)]
)
def test_it_is_refused_with_one_message(name: str, bases: Bases, worker: Worker, tmp_path: Path) -> None:
    folder = tmp_path / "case"
    (folder / "tmp").mkdir(parents=True)
    arguments = [str(argument) for argument in CASES[name].prepare(folder, bases)]
    before = listing(folder)
    outcome = worker.run(arguments, folder, PATIENCE_S)
    assert outcome.status in (1, 2), outcome
    lines = outcome.errors.splitlines()
    assert len(lines) == 1, outcome.errors
    assert lines[0].startswith(f"edgernn {arguments[0]}: error: ")
    assert CASES[name].says in lines[0]
    assert len(lines[0]) <= LONGEST, lines[0]
    assert lines[0].isprintable(), lines[0]
    assert outcome.deeds == ()
    assert listing(folder) == before, "something was written"


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Return every path below a folder, with its kind and when it was changed."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.lstat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.name != "tmp"
    }
