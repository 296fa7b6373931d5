"""An SSH server on loopback that plays the board: OpenSSH's own, with keys, folder and Python of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin:/bin")


@dataclass(frozen=True)
class Board:
    """A running server."""

    port: int
    scratch: Path
    """Where programs on it make their temporary folders."""
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"{getuser()}@127.0.0.1:{self.port}"

    @property
    def options(self) -> list[str]:
        """Of `edgernn profile`: where it is, and the keys of both ends."""
        keys = ["--identity", str(self.folder / "id"), "--known-hosts", str(self.folder / "known_hosts")]
        return ["--on", self.address, *keys]

    def left(self) -> list[str]:
        """Return what programs have left behind."""
        return sorted(path.name for path in self.scratch.iterdir())


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def board(folder: Path, environment: str = "", scratch: Path | None = None) -> Iterator[Board]:
    """Start a server whose programs see TMPDIR and, where given, other variables."""
    folder.mkdir(parents=True, exist_ok=True)
    scratch = scratch or folder / "scratch"
    scratch.mkdir(exist_ok=True)
    for name in ("host", "id"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port = free_port()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "authorized").write_text((folder / "id.pub").read_text())
    Path("/run/sshd").mkdir(exist_ok=True)
    lines = [
        f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host", f"AuthorizedKeysFile {folder}/authorized",
        "PidFile none", "UsePAM no", "StrictModes no", f"SetEnv TMPDIR={scratch} {environment}",
    ]  # fmt: skip
    (folder / "config").write_text("\n".join(lines) + "\n")
    process = subprocess.Popen([str(SSHD), "-D", "-f", folder / "config", "-E", folder / "log"])
    try:
        _wait_for(port)
        yield Board(port, scratch, folder, process)
    finally:
        process.terminate()
        process.wait(10)


def bare_python(folder: Path) -> Path:
    """Return the Python of an environment with nothing in it, not even pip."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python3"


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError("sshd did not start")
