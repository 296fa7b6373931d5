"""One SSH connection to one board, and the program at its other end that keeps the scratch folder there."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from getpass import getpass
from pathlib import Path
from typing import Any

from edgernn.errors import BoardError, MissingDependencyError, UsageError
from edgernn.text import one_line

__all__ = ["Address", "Keys", "Link", "connected"]

CONNECT_S = 15.0
ALIVE_S = float(os.environ.get("EDGERNN_ALIVE_S", "5"))  # between signs of life, in both directions
LEAVE_S = 15.0
MOST_LINE = 2**20  # bytes of a line of JSON, in which a program's output is
KEPT_LINES = 12  # of a program's output, for the message when it fails


@dataclass(frozen=True)
class Address:
    """Where a board is, as on the command line."""

    text: str
    user: str | None
    host: str
    port: int | None

    @classmethod
    def read(cls, text: str) -> Address:
        """Read `user@host:port`, where user and port may be missing; IPv6 stands in brackets.

        >>> Address.read("pi@[fe80::1]:2222").host
        'fe80::1'
        """
        found = re.fullmatch(
            r"(?:(?P<user>[^@\s]+)@)?(?:\[(?P<six>[^]\s]+)\]|(?P<host>[^@:\s]+))(?::(?P<port>\d+))?", text
        )
        if found is None or not (port := int(found["port"] or 22)) or port > 65535 or text.startswith("-"):
            raise UsageError(f"--on {text}: expected user@host or user@host:port, as in pi@raspberrypi.local")
        return cls(text, found["user"], found["six"] or found["host"], int(found["port"]) if found["port"] else None)


@dataclass(frozen=True)
class Keys:
    """How both ends are known to each other; what is empty is what `ssh` would take."""

    identities: tuple[str, ...] = ()
    known_hosts: str = ""


class Link:
    """Requests to the board's side, one after the other."""

    def __init__(self, address: Address, process: Any) -> None:
        self.address, self._process = address, process
        self.facts: dict[str, Any] = {}
        self.left = False
        """Whether the folder there is known to be gone."""

    async def greet(self, python: str) -> None:
        """Hear what the board has; raise `BoardError` where no Python answered."""
        line, before = await self._process.stdout.readline(), b""
        while line and not line.startswith(b'{"folder"'):  # a shell there may greet everybody
            line, before = await self._process.stdout.readline(), (before + line)[-1000:]
        if not line:
            said = one_line((before + b" " + await self._process.stderr.read()).decode(errors="replace"))
            raise BoardError(
                f"{self.address.text}: {python} does not run there ({said or 'it says nothing'}): install it "
                "(sudo apt install python3), or name one with --python"
            )
        self.facts = json.loads(line)

    async def write(self, path: str, content: bytes) -> None:
        """Put a file into the folder there."""
        answer = await self._ask({"do": "write", "path": path, "bytes": len(content)}, content)
        if "failed" in answer:
            raise BoardError(
                f"{self.address.text}: {path} cannot be written to {self.facts['folder']}: {answer['failed']}"
            )

    async def unpack(self, path: str, to: str) -> None:
        """Unpack a ZIP file there."""
        answer = await self._ask({"do": "unpack", "path": path, "to": to})
        if "failed" in answer:
            raise BoardError(
                f"{self.address.text}: {path} cannot be unpacked in {self.facts['folder']}: {answer['failed']}"
            )

    async def read(self, path: str) -> bytes:
        """Return a file from there."""
        answer = await self._ask({"do": "read", "path": path})
        if "failed" in answer:
            raise BoardError(f"{self.address.text}: {path} cannot be read: {answer['failed']}")
        try:
            content: bytes = await self._process.stdout.readexactly(answer["bytes"])
        except asyncio.IncompleteReadError as error:
            raise BoardError(f"{self.address.text}: the connection was lost while {path} was read") from error
        return content

    async def run(
        self,
        what: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        hear: Callable[[str], None],
        good: Container[int] = (0,),
    ) -> int:
        """Run a program there to its end, handing on the lines that it prints; return its exit status."""
        answer, rest = await self._ask({"do": "run", "arguments": [*arguments], "environment": {**environment}}), ""
        last: list[str] = []
        while "printed" in answer:
            *lines, rest = (rest + answer["printed"]).split("\n")
            for line in lines:
                last = [*last[1 - KEPT_LINES :], line]
                hear(line)
            answer = await self._answer()
        if "failed" in answer or answer["exit"] not in good:
            said = answer.get("failed") or "\n  ".join(
                [f"exit status {answer['exit']}", *last, *([rest] if rest else [])]
            )
            raise BoardError(f"{self.address.text}: {what} failed there: {said}")
        status: int = answer["exit"]
        return status

    def stop(self) -> None:
        """Interrupt the program there, as Ctrl-C would."""
        self._process.stdin.write(b'{"do": "stop"}\n')

    async def live(self) -> None:
        """Give signs of life for ever, so that the board knows that nobody cut the network."""
        while True:
            await asyncio.sleep(ALIVE_S)
            self._process.stdin.write(b'{"do": "beat"}\n')

    async def leave(self) -> bool:
        """Have everything there removed; return whether it says that it is."""
        with contextlib.suppress(OSError, BoardError):
            self._process.stdin.write(b'{"do": "end"}\n')
            while True:
                answer = await self._answer()
                if "gone" in answer:
                    return bool(answer["gone"])
        return False

    async def _ask(self, request: Mapping[str, Any], content: bytes = b"") -> dict[str, Any]:
        with contextlib.suppress(OSError):  # the answer that does not come tells
            self._process.stdin.write(json.dumps(request).encode() + b"\n" + content)
            await self._process.stdin.drain()
        return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise BoardError(
                f"{self.address.text}: the connection was lost; without it, the board stops the measurement and "
                "removes its folder by itself, within half a minute"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.asynccontextmanager
async def connected(address: Address, keys: Keys, python: str = "python3") -> AsyncIterator[Link]:
    """Connect to a board and start its side; however this ends, nothing stays there."""
    try:
        import asyncssh
    except ImportError as error:
        raise MissingDependencyError("profiling over SSH", "asyncssh", "remote") from error
    if keys.known_hosts and not Path(keys.known_hosts).is_file():
        raise BoardError(_untrusted(asyncssh, address, keys))
    script = base64.b64encode(Path(__file__).with_name("board_side.py").read_bytes()).decode()
    command = f"exec {shlex.quote(python)} -c 'import base64; exec(base64.b64decode(\"{script}\"))'"
    try:
        async with (
            asyncssh.connect(address.host, **_options(asyncssh, address, keys)) as connection,
            connection.create_process(command, encoding=None, window=MOST_LINE) as process,
        ):
            link = Link(address, process)
            await link.greet(python)
            alive = asyncio.create_task(link.live())
            try:
                yield link
            finally:
                alive.cancel()
                await _leave(link, connection)
    except asyncssh.HostKeyNotVerifiable as error:
        raise BoardError(f"{_untrusted(asyncssh, address, keys)} ({one_line(error)})") from error
    except asyncssh.PermissionDenied as error:
        raise BoardError(
            f"{address.text} lets nobody in with these keys ({one_line(error)}): give the one that it knows with "
            "--identity FILE, add it to the agent (ssh-add), or bring it there (ssh-copy-id)"
        ) from error
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise UsageError(
            f"--identity: {one_line(error)}; its passphrase is asked for on a terminal, or use ssh-add"
        ) from error
    except (asyncssh.Error, OSError, TimeoutError, asyncio.TimeoutError) as error:
        code = getattr(error, "errno", None) or 0  # a name that is not known has one below 0, and words of its own
        said = os.strerror(code) if code > 0 else one_line(error) or f"no answer within {CONNECT_S:g} seconds"
        raise BoardError(f"{address.text} cannot be reached: {said}") from error


@functools.cache
def _key(asyncssh: Any, path: Path) -> Any:
    """Return a private key, asking for its passphrase once for all boards; None where the agent may have it."""
    try:
        return asyncssh.read_private_key(path)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
        if sys.stdin.isatty():
            return asyncssh.read_private_key(path, getpass(f"passphrase of {path}: "))
        if "SSH_AUTH_SOCK" in os.environ:
            return None
        raise


def _options(asyncssh: Any, address: Address, keys: Keys) -> dict[str, Any]:
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_S,
        "login_timeout": CONNECT_S,
        "keepalive_interval": ALIVE_S,
        "keepalive_count_max": 3,
    }
    if address.user:
        options["username"] = address.user
    if address.port:
        options["port"] = address.port
    loaded = [_key(asyncssh, Path(path).expanduser()) for path in keys.identities]
    if any(loaded):
        options["client_keys"] = [key for key in loaded if key is not None]
    if keys.known_hosts:
        options["known_hosts"] = keys.known_hosts
    return options


async def _leave(link: Link, connection: Any) -> None:
    """Have the board tidied up, and look whether it is; what cannot be said any more happens there by itself."""
    with contextlib.suppress(Exception):
        gone = await asyncio.wait_for(link.leave(), LEAVE_S)
        folder = shlex.quote(link.facts["folder"])
        seen = await asyncio.wait_for(connection.run(f"test -e {folder}"), LEAVE_S)
        link.left = gone and seen.exit_status == 1


def _untrusted(asyncssh: Any, address: Address, keys: Keys) -> str:
    """Return what to do about a host key, which is unknown or another one than before."""
    path = Path(keys.known_hosts or "~/.ssh/known_hosts").expanduser()
    port = "" if address.port is None else f" -p {address.port}"
    file = f" -o UserKnownHostsFile={path}" if keys.known_hosts else ""
    config = [str(file) for file in [Path("~/.ssh/config").expanduser()] if file.is_file()]
    given = {"port": address.port} if address.port else {}
    known = asyncssh.SSHClientConnectionOptions(host=address.host, config=config, **given)
    place = known.host if known.port == 22 else f"[{known.host}]:{known.port}"
    with contextlib.suppress(OSError, ValueError):
        if any(asyncssh.read_known_hosts(str(path)).match(known.host, "", known.port)[:2]):
            return (
                f"{address.text} shows another host key than the one in {path}: it was set up anew, or somebody is in "
                f"between. Only if you know why: ssh-keygen -R '{place}' -f {path}, then connect once with ssh"
            )
    target = f"{address.user}@{address.host}" if address.user else address.host
    return (
        f"the host key of {address.text} is not in {path}: connect once with 'ssh{port}{file} {target}', compare the "
        "fingerprint that it shows with the board's, and say yes"
    )
