"""What runs on a board while it is measured over SSH: keeps a scratch folder, runs programs in it, and leaves nothing.

It is sent as text to a bare Python (3.8 or later) and uses its standard library alone. It takes requests on standard
input, a line of JSON each (with the bytes of a file behind it where it says so), and answers on standard output
likewise. However it ends, by a request, a signal, a connection that is gone, or a client that said nothing for
`SILENCE_S` seconds (one whose network was cut says nothing, and its connection may stay open for hours), what runs is
killed and the folder removed. Where it was itself killed (-9, or the power went), the next one that comes removes what
it left: nobody holds the lock of that folder any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["main"]

SILENCE_S = float(os.environ.get("EDGERNN_SILENCE_S", "30"))
MOST_LINE = 65536  # bytes
PREFIX, LOCK = "edgernn-profile-", ".alive"
PR_SET_PDEATHSIG = 1


class _Gone(Exception):
    """The client is, or wants us to be."""


def _say(message: Mapping[str, Any], content: bytes = b"") -> None:
    """Answer; whether anybody hears it is not ours to know."""
    data = json.dumps(message).encode() + b"\n" + content
    while data:
        data = data[os.write(1, data) :]


def _facts(folder: Path) -> dict[str, Any]:
    """Return what the client decides by."""
    names = ("numpy", "ai_edge_litert", "tflite_runtime", "onnxruntime")
    machine = platform.machine()
    if struct.calcsize("P") == 4:  # a 32-bit system on a 64-bit kernel, as Raspberry Pi OS had it for long
        machine = {"aarch64": "armv7l", "x86_64": "i686"}.get(machine, machine)
    return {
        "folder": str(folder),
        "version": list(sys.version_info[:3]),
        "machine": machine,
        "libc": list(platform.libc_ver()),
        "has": [name for name in names if find_spec(name) is not None],
        "free": shutil.disk_usage(folder).free,
    }


class _Board:
    """One folder, and at most one program at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.buffer, self.heard, self.eof = folder, b"", time.monotonic(), False
        self.child: subprocess.Popen[bytes] | None = None
        self.selector = selectors.DefaultSelector()
        self.selector.register(0, selectors.EVENT_READ, "client")

    def serve(self) -> None:
        """Do as asked until there is nobody left to ask."""
        _say(_facts(self.folder))
        while True:
            line = self.take_line()
            if line is None:
                self.wait()
            else:
                self.answer(json.loads(line))

    def wait(self) -> None:
        """Read what is there from the client and from the program."""
        for key, _ in self.selector.select(timeout=1.0):
            data = os.read(key.fd, MOST_LINE)
            if key.data == "client":
                if not data:
                    raise _Gone
                self.buffer += data
                self.heard = time.monotonic()
            elif data:
                _say({"printed": data.decode(errors="replace")})
            else:
                self.selector.unregister(key.fd)
                self.eof = True
        if self.child is not None and self.child.poll() is not None and self.eof:
            status, self.child = self.child.returncode, None
            _say({"exit": status})
        if time.monotonic() - self.heard > SILENCE_S:
            raise _Gone

    def take_line(self) -> bytes | None:
        """Return the next request, None if it is not here yet."""
        line, end, rest = self.buffer.partition(b"\n")
        if not end:
            return None
        self.buffer = rest
        return line

    def take_bytes(self, count: int) -> Iterator[bytes]:
        """Wait for the content of a file, in pieces."""
        while count:
            while not self.buffer:
                self.wait()
            piece, self.buffer = self.buffer[:count], self.buffer[count:]
            count -= len(piece)
            yield piece

    def answer(self, request: Mapping[str, Any]) -> None:
        """Do one thing."""
        do = request["do"]
        if do == "write":
            self.write(self.folder / request["path"], request["bytes"])
        elif do == "read":
            self.read(self.folder / request["path"])
        elif do == "unpack":
            self.unpack(self.folder / request["path"], self.folder / request["to"])
        elif do == "run":
            self.run(request["arguments"], request["environment"])
        elif do == "stop" and self.child is not None:
            with contextlib.suppress(OSError):
                os.killpg(self.child.pid, signal.SIGINT)
        elif do == "end":
            raise _Gone

    def write(self, path: Path, count: int) -> None:
        """Take a file; all of it even if the disk is full, or the rest would be read as requests."""
        pieces = self.take_bytes(count)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for piece in pieces:
                    file.write(piece)
            _say({"done": "write"})
        except OSError as error:
            for _ in pieces:
                pass
            _say({"failed": error.strerror})

    def unpack(self, path: Path, to: Path) -> None:
        """Unpack a ZIP file, and have it no longer: on a small disk both would be too much."""
        try:
            shutil.unpack_archive(path, to, "zip")
            path.unlink()
            _say({"done": "unpack"})
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            _say({"failed": getattr(error, "strerror", None) or str(error)})

    def read(self, path: Path) -> None:
        """Give a file."""
        try:
            content = path.read_bytes()
        except OSError as error:
            _say({"failed": error.strerror})
        else:
            _say({"bytes": len(content)}, content)

    def run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a program in a process group of its own, so that its children end with it."""
        self.eof = False
        try:
            self.child = subprocess.Popen(
                arguments,
                cwd=self.folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        except OSError as error:
            _say({"failed": error.strerror})
        else:
            assert self.child.stdout is not None
            self.selector.register(self.child.stdout, selectors.EVENT_READ, "program")

    def leave(self) -> None:
        """Kill what runs, remove the folder."""
        if self.child is not None:
            with contextlib.suppress(OSError):
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()
        for _ in range(20):  # what was just killed may still be writing
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                break
            time.sleep(0.1)


def _die_with_parent() -> None:
    """Have the kernel kill this child when its parent is gone without a word."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _make_folder() -> tuple[Path, int]:
    """Return a new folder and the lock that says that somebody is in it."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = os.open(folder / "locking", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / "locking").rename(folder / LOCK)  # there is none that nobody holds, not for a moment
    return folder, lock


def _sweep() -> None:
    """Remove folders of this user whose makers were killed."""
    for folder in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _leave_by_signal(number: int, frame: FrameType | None) -> None:
    """End as if the client had asked for it."""
    raise _Gone


def main() -> None:
    """Serve one client."""
    os.umask(0o077)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave_by_signal)
    _sweep()
    folder, _ = _make_folder()
    board = _Board(folder)
    try:
        board.serve()
    except (_Gone, BrokenPipeError):
        pass
    finally:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        board.leave()
    with contextlib.suppress(OSError):
        _say({"gone": not board.folder.exists()})


if __name__ == "__main__":
    main()
