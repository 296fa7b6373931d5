"""The emulated board, with EdgeRNN installed on it from its wheel."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.boards.aarch64 import Board, UnsuitedError, cache_folder, prepare

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def installing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Board]]:
    """Begin to bring the board, which takes its time; artifacts can be made meanwhile."""
    shared, cache = tmp_path_factory.getbasetemp(), cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run of the tests has another wheel on the board
        with ThreadPoolExecutor(1) as executor:
            yield executor.submit(_install, shared)


@pytest.fixture(scope="session")
def board(installing: Future[Board]) -> Board:
    try:
        return installing.result()
    except UnsuitedError as error:
        pytest.skip(f"2026-11-23: {error}")
    except RuntimeError as error:
        if "CI" in os.environ or not str(error).startswith("the emulated board cannot be prepared"):
            raise
        pytest.skip(f"2026-11-23: the archives of Debian or PyPI do not answer: {error}")


def _install(shared: Path) -> Board:
    """Build the wheel, and install it as a user does."""
    board = prepare(cache_folder() / "aarch64", shared)
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(shared / "built"), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, cwd=shared)
    (wheel,) = (shared / "built").glob("*.whl")
    board.install(wheel)
    return board
