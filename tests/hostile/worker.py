"""A process that runs command lines of `edgernn` one after the other, and watches what they do.

A command that ends the process, by a segmentation fault say, or does not end, costs its test alone: the process is
started again. It says with each answer what was done that no reading of a file should do.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

__all__ = ["Outcome", "Worker"]

FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.remove", "os.rmdir", "os.symlink", "pickle.find_class",
    "shutil.rmtree", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "urllib.Request", "webbrowser.open",
)  # fmt: skip
"""Audit events (PEP 578) of what a file could want to be done."""


APART = ("edgernn.quantize.onnx_files.contain", "edgernn.quantize.saved_graphs.freeze")
"""Processes of our own in which files are tried."""


@dataclass(frozen=True)
class Outcome:
    """What came of one command line."""

    status: int
    """-1000 where it did not end in time; the negative signal where the process died."""
    output: str
    errors: str
    deeds: tuple[str, ...] = ()
    """Forbidden audit events, and files outside the scratch folder that were opened to be written."""


class Worker:
    """The process, as its user sees it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._answers: Queue[str] = Queue()

    def run(self, arguments: list[str], folder: Path, patience_s: float) -> Outcome:
        """Run one command line in `folder`."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(json.dumps([arguments, str(folder)]) + "\n")
        process.stdin.flush()
        try:
            answer = self._answers.get(timeout=patience_s)
        except Empty:
            self.stop()
            return Outcome(-1000, "", f"it did not end within {patience_s} s")
        if not answer:
            self.stop()
            return Outcome(process.returncode, "", "the process died")
        status, output, errors, deeds = json.loads(answer)
        return Outcome(status, output, errors, tuple(deeds))

    def stop(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.kill()
        process.wait()
        self._reader.join()
        process.stdin.close()
        process.stdout.close()

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-B", "-m", "tests.hostile.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        self._answers = Queue()
        self._reader = Thread(target=_hand_on, args=(process, self._answers), daemon=True)
        self._reader.start()
        return process


def _hand_on(process: subprocess.Popen[str], answers: Queue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        answers.put(line)
    answers.put("")


# in the process


def main() -> None:
    """Answer each line on standard input: arguments and folder as JSON."""
    from edgernn.cli import main as edgernn

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    deeds: list[str] = []
    folder = Path()

    def watch(event: str, details: tuple[Any, ...]) -> None:
        if event in FORBIDDEN and not _ours(event, details):
            deeds.append(f"{event} {details!r}"[:300])
        if event == "open" and _writes(details) and not str(details[0]).startswith((str(folder), "/dev/null")):
            deeds.append(f"open {details!r}"[:300])

    sys.addaudithook(watch)
    for line in sys.stdin:
        arguments, place = json.loads(line)
        folder = Path(place)
        tempfile.tempdir = str(folder / "tmp")
        os.chdir(folder)
        deeds.clear()
        with _captured(folder.parent / f"{folder.name}.printed") as printed:
            try:
                status = edgernn(arguments)
            except SystemExit as stop:
                status = stop.code if isinstance(stop.code, int) else 1
            except BaseException:
                traceback.print_exc()
                status = 70
        done = [deed for deed in deeds if ".printed" not in deed]
        print(json.dumps([status, *map(_text, printed), done]), file=answers, flush=True)


def _ours(event: str, details: tuple[Any, ...]) -> bool:
    """Tell what is done anyway: temporary files are removed, files are tried apart, a library asks for the machine."""
    removed = event in ("os.remove", "os.rmdir", "shutil.rmtree") and _place(details).startswith(str(Path.cwd()))
    apart = event == "subprocess.Popen" and details[1][1] == "-m" and details[1][2] in APART
    return removed or apart or (event == "subprocess.Popen" and details[0] == "uname")


def _place(details: tuple[Any, ...]) -> str:
    """Return what a path is below, where it is relative to a folder that is open."""
    opened = details[1] if len(details) > 1 and isinstance(details[1], int) and details[1] >= 0 else None
    return str(details[0]) if opened is None else str(Path(f"/proc/self/fd/{opened}").readlink())


def _writes(details: tuple[Any, ...]) -> bool:
    mode, flags = details[1], details[2]
    written = isinstance(mode, str) and any(letter in mode for letter in "wax+")
    return written or (mode is None and bool(flags & (os.O_WRONLY | os.O_RDWR)))


@contextlib.contextmanager
def _captured(path: Path) -> Iterator[list[Path]]:
    """Send what is written to both standard outputs, by native code too, to files."""
    files = [path.with_suffix(f".{name}.printed") for name in ("out", "err")]
    kept = [os.dup(1), os.dup(2)]
    for descriptor, file in zip((1, 2), files, strict=True):
        with file.open("wb") as opened:
            os.dup2(opened.fileno(), descriptor)
    try:
        yield files
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, old in zip((1, 2), kept, strict=True):
            os.dup2(old, descriptor)
            os.close(old)


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="backslashreplace")


if __name__ == "__main__":
    main()
