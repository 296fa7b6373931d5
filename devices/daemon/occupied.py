"""What a daemon needs of this machine, and another program may have: its ports, and its folder."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from edgernn.devices.daemon.config import Config
from edgernn.devices.daemon.fields import Problems

__all__ = ["check_machine", "is_in_use"]

SQLITE_LOCK = 0x40000002, 510  # the bytes of a database that whoever has it to himself has locked: offset and size


def check_machine(config: Config, problems: Problems) -> list[str]:
    """Note what is not there for the daemon; return remarks on what may be its own, as one that runs is checked too."""
    folder = config.folder
    if not _is_writable(folder):
        what = "is not writable for you, and a daemon that you start needs it" if folder.exists() else "cannot be made"
        problems.add(config.place("state"), f"the folder {folder} for what outlives the daemon {what}")
    elif is_in_use(folder):
        return [f"a daemon runs with the folder {folder}, so the ports were not looked at"]
    taken = list(_taken_ports(config))
    if config.state is None:  # a service has another folder than who checks, and may be what listens there
        return [f"{what}: by this daemon itself, if it runs as a service" for _, what in taken]
    for place, what in taken:
        problems.add(place, what)
    return []


def is_in_use(folder: Path) -> bool:
    """Tell whether a daemon runs whose state is in a folder."""
    try:
        with (folder / "outbox.sqlite").open("rb") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, SQLITE_LOCK[1], SQLITE_LOCK[0])
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _is_writable(folder: Path) -> bool:
    """Tell whether a folder can be written to, or made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _taken_ports(config: Config) -> Iterator[tuple[str, str]]:
    """Yield place and complaint for each port that cannot be listened on."""
    wanted = [("http", *config.http.listen)] if config.http else []
    if config.wake:
        parts = urlsplit(config.wake.listen)
        wanted.append(("wake", parts.hostname or "", parts.port or 0))
    with ExitStack() as both:
        for table, host, port in wanted:
            try:
                family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
                both.enter_context(socket.create_server((host, port), family=family))
            except OSError as error:
                place = config.place(table, "listen")
                yield place, f"nothing can listen on {host}, port {port}: {error.strerror or error}"
