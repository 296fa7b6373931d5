"""The systemd unit of a configuration: what the daemon needs is allowed, everything else is not."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import edgernn
from edgernn.devices.daemon.config import Config, SinkConfig, SourceConfig
from edgernn.devices.secret import Secret
from edgernn.errors import UsageError

__all__ = ["MARK", "unit_text"]

MARK = "# Written by edgernn install-service; edgernn install-service --uninstall takes it away.\n"
PRIVATE = ("/home", "/root", "/run/user")  # ProtectHome=tmpfs hides them
TEMPORARY = ("/tmp", "/var/tmp")  # PrivateTmp= has others there
LOCAL = (
    "text", "json", "file", "folder", "stdin", "mic", "csv", "iio", "serial", "camera", "sqlite", "unix", "command",
)  # fmt: skip
DEVICES = {  # source: device classes of the kernel, and the group that may open them
    "mic": (("char-alsa",), "audio"),
    "serial": (("char-ttyUSB", "char-ttyACM", "char-ttyS", "char-ttyAMA"), "dialout"),
    "camera": (("char-video4linux", "char-media"), "video"),
}

COMMON = """\
NoNewPrivileges=yes
LockPersonality=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
UMask=0077
"""

# Not ProcSubset=pid: the runtimes choose their kernels by /proc/cpuinfo.
SYSTEM = """\
DynamicUser=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=tmpfs
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
PrivateTmp=yes
PrivateUsers=yes
RemoveIPC=yes
KeyringMode=private
DevicePolicy=closed
"""


def unit_text(file: Path, config: Config, program: Path, name: str, user: bool) -> str:
    """Return the unit that runs `program serve file`, for the system's or a user's systemd.

    Raises `UsageError` for what the service could not read or write.
    """
    if config.state is not None and not user:
        raise UsageError(f"a service keeps its state in /var/lib/{name}: leave the key 'state' out of {file}")
    lines = [
        "[Unit]",
        f"Description=EdgeRNN: {', '.join(config.pipelines)}",
        "After=sound.target" if user else "After=network.target sound.target",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=notify",
        f"ExecStart={_quoted(program)} serve {_quoted(file)}",
        f"ExecReload={shutil.which('kill') or '/bin/kill'} -HUP $MAINPID",
        f"StateDirectory={name}",
        f"WorkingDirectory=%S/{name}",
        "WatchdogSec=30",
        "TimeoutStopSec=10",
        "Restart=on-failure",
        "RestartSec=1",
        "RestartPreventExitStatus=2",
        "TasksMax=128",
        *(f"LoadCredential={secret}:/etc/credstore/{secret}" for secret in _credentials(config)),
        *COMMON.splitlines(),
        *_network(config),
        *([] if user else _system(file, config, program)),
        "",
        "[Install]",
        f"WantedBy={'default.target' if user else 'multi-user.target'}",
    ]
    return MARK + "\n".join(lines) + "\n"


def _system(file: Path, config: Config, program: Path) -> Iterator[str]:
    yield from SYSTEM.splitlines()
    needed = {scheme: DEVICES[scheme] for scheme in _schemes(_sources(config)) if scheme in DEVICES}
    if not needed:
        yield "PrivateDevices=yes"
    for classes, group in needed.values():
        yield from (f"DeviceAllow={device} rw" for device in classes)
        yield f"SupplementaryGroups={group}"
    if "mic" not in needed:  # PortAudio's callback is machine code that cffi makes
        yield "MemoryDenyWriteExecute=yes"
    paths = sorted({path.resolve() for path in _paths(file, config, program)})
    for path in paths:
        _check_readable(path)
    yield from (f"BindReadOnlyPaths={_quoted(path)}" for path in paths if _hidden(path))


def _network(config: Config) -> Iterator[str]:
    remote = {scheme for scheme in _schemes([*_sources(config), *config.sinks.values()]) if scheme not in LOCAL}
    hosts = [config.http.listen.host] if config.http else []
    hosts += [str(urlsplit(config.wake.listen).hostname)] if config.wake else []
    if not remote and not hosts:
        yield "RestrictAddressFamilies=AF_UNIX"
        yield "PrivateNetwork=yes"
        return
    announce = config.wake is not None and config.wake.announce  # it asks the kernel for the machine's addresses
    yield f"RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6{' AF_NETLINK' if announce else ''}"
    if not remote and all(host in ("127.0.0.1", "::1", "localhost") for host in hosts):
        yield "IPAddressDeny=any"
        yield "IPAddressAllow=localhost"


def _sources(config: Config) -> list[SourceConfig]:
    return [pipeline.source for pipeline in config.pipelines.values()]


def _schemes(parts: Iterable[SourceConfig | SinkConfig]) -> list[str]:
    """Return the schemes in use, each once; what has none is a file, or standard input or output."""
    found = (re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", part.uri) for part in parts)
    return list(dict.fromkeys(match[1].lower() if match else "file" for match in found))


def _credentials(config: Config) -> list[str]:
    parts: list[SourceConfig | SinkConfig] = [*_sources(config), *config.sinks.values()]
    values = (value for part in parts for value in part.options.values())
    return sorted({value.where for value in values if isinstance(value, Secret) and value.kind == "credential"})


def _paths(file: Path, config: Config, program: Path) -> Iterator[Path]:
    """Yield what the daemon reads, apart from the system's own files."""
    yield from (file, program, Path(sys.prefix), Path(sys.base_prefix))
    yield Path(edgernn.__file__).resolve().parent.parent
    yield from config.wake.artifact if config.wake else ()
    yield from (Path(key) for key in config.store.trusted_keys if not key.startswith("ssh-"))
    for pipeline in config.pipelines.values():
        yield pipeline.artifact
        if _schemes([pipeline.source])[0] in ("file", "folder", "csv"):
            yield from _absolute(re.sub("^(file|folder|csv):(//)?", "", pipeline.source.uri))


def _absolute(text: str) -> list[Path]:
    """Return a path that does not depend on the folder the service runs in, which is its own."""
    return [Path(text)] if Path(text).is_absolute() else []


def _hidden(path: Path) -> bool:
    """Tell whether a path must be shown in what is else an empty home."""
    return any(path.is_relative_to(home) for home in PRIVATE)


def _check_readable(path: Path) -> None:
    """Raise `UsageError` where the service's own user, who is nobody else, could not read."""
    if any(path.is_relative_to(folder) for folder in TEMPORARY):
        raise UsageError(f"{path} is a temporary file, which a service does not see: move it, to /etc/edgernn for one")
    above = [] if _hidden(path) else list(path.parents)
    for part in [path, *above]:
        wanted = 0o001 if part in above else 0o005 if part.is_dir() else 0o004
        if part.exists() and part.stat().st_mode & wanted != wanted:
            raise UsageError(f"the service's own user cannot read {part}: chmod o+rX '{part}', or move {path}")


def _quoted(path: Path) -> str:
    """Return a path as systemd reads it: in quotes, with what stands for something else doubled."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if re.search(r"[\s'\"\\;]", text) else text
