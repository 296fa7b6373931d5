"""The systemd unit of a configuration: what the daemon needs is allowed, everything else is not.

A user's unit is fenced in like the system's, in a user namespace of its own: systemd 252 and later were seen to do so.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from edgernn.devices.daemon.config import Config
from edgernn.devices.daemon.reach import (
    check_readable,
    hidden,
    in_view,
    read_paths,
    schemes,
    secrets,
    sources_of,
    written_folders,
)
from edgernn.errors import UsageError

__all__ = ["MARK", "unit_text"]

MARK = "# Written by edgernn install-service; edgernn install-service --uninstall takes it away.\n"
LOCAL = (
    "text", "json", "file", "folder", "stdin", "mic", "csv", "iio", "serial", "camera", "picamera2", "sqlite", "unix",
    "command",
)  # fmt: skip
DEVICES = {  # source: device classes of the kernel, and the group that may open them
    "mic": (("char-alsa",), "audio"),
    "serial": (("char-ttyUSB", "char-ttyACM", "char-ttyS", "char-ttyAMA"), "dialout"),
    "camera": (("char-video4linux", "char-media"), "video"),
    "picamera2": (("char-video4linux", "char-media", "char-dma_heap"), "video"),
}
ACCELERATOR = (("char-nv*", "char-drm"), "video")
SOUND_SERVERS = ("%t/pulse", "%t/pipewire-0")

# Not ProcSubset=pid: the runtimes choose their kernels by /proc/cpuinfo.
COMMON = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
LockPersonality=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
ProtectSystem=strict
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
PrivateTmp=yes
PrivateUsers=yes
KeyringMode=private
UMask=0077
"""

SYSTEM = """\
DynamicUser=yes
ProtectHome=tmpfs
RemoveIPC=yes
DevicePolicy=closed
"""


def unit_text(file: Path, config: Config, program: Path, name: str, user: bool) -> str:
    """Return the unit that runs `program serve file`, for the system's or a user's systemd.

    Raises `UsageError` for what the service could not read or write.
    """
    if config.state is not None:
        place = "~/.config or ~/.local/state" if user else "/var/lib"
        raise UsageError(f"a service keeps its state in {place}/{name}: leave the key 'state' out of {file}")
    paths = sorted({path.resolve() for path in read_paths(file, config, program)})
    for path in paths:
        check_readable(path, user)
    shown = in_view(paths, file, config)
    lines = [
        "[Unit]",
        f"Description=EdgeRNN: {', '.join([*config.pipelines, *(['wake words'] if config.wake else [])])}",
        f"After={' '.join(_after(config, user))}",
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
        *(f"LoadCredential={secret}:%E/credstore/{secret}" for secret in secrets(config, "credential")),
        *COMMON.splitlines(),
        *_network(config, user),
        *_devices(config, user),
        *(_home(config, shown, name) if user else _system(config, shown, name)),
        "",
        "[Install]",
        f"WantedBy={'default.target' if user else 'multi-user.target'}",
    ]
    return MARK + "\n".join(lines) + "\n"


def _after(config: Config, user: bool) -> list[str]:
    if user:
        return ["pipewire.socket", "pipewire-pulse.socket", "pulseaudio.socket"]
    return ["network.target", "sound.target"]


def _system(config: Config, shown: list[Path], name: str) -> Iterator[str]:
    yield from SYSTEM.splitlines()
    for folder in written_folders(config):
        raise UsageError(
            f"a service writes to /var/lib/{name} alone, and a sink writes to {folder}: name it by a relative path, "
            "which is in there"
        )
    for file in secrets(config, "file"):
        raise UsageError(
            f"the secret {file} would have to be readable by everybody, since a service has a user of its own: move it "
            f'to /etc/credstore/NAME, and name it {{ credential = "NAME" }}'
        )
    yield from (f"BindReadOnlyPaths={_quoted(path)}" for path in shown)


def _home(config: Config, shown: list[Path], name: str) -> Iterator[str]:
    """Show of a home what is needed, and nothing else, such as keys or the socket of the session's own systemd."""
    files = sorted({Path(file).resolve() for file in secrets(config, "file")})
    for file in files:
        check_readable(file, True)
    folders = written_folders(config)
    yield from (f"ReadWritePaths={_quoted(folder)}" for folder in folders if not hidden(folder))
    if "command" in schemes(config.sinks.values()):  # of anyone's: it may need the session, and what is in its home
        yield "ProtectHome=read-only"
        yield from (f"ReadWritePaths={_quoted(folder)}" for folder in folders if hidden(folder))
        return
    yield "ProtectHome=tmpfs"
    yield f"BindPaths=%S/{name}"
    yield "BindReadOnlyPaths=%t/systemd/notify"
    yield from (f"BindPaths={_quoted(folder)}" for folder in folders if hidden(folder))
    yield from (f"BindReadOnlyPaths={_quoted(path)}" for path in [*shown, *filter(hidden, files)])
    if "mic" in schemes(sources_of(config)):
        yield from (f"BindReadOnlyPaths=-{path}" for path in SOUND_SERVERS)


def _devices(config: Config, user: bool) -> Iterator[str]:
    found = schemes(sources_of(config))
    needed = [DEVICES[scheme] for scheme in found if scheme in DEVICES]
    accelerated = any(pipeline.provider not in (None, "cpu") for pipeline in config.pipelines.values())
    needed += [ACCELERATOR] if accelerated else []
    if not needed:
        yield "PrivateDevices=yes"
    for classes, group in [] if user else needed:  # a user's systemd cannot tell devices apart
        yield from (f"DeviceAllow={device} rw" for device in classes)
        yield f"SupplementaryGroups={group}"
    if "mic" not in found and not accelerated:  # PortAudio's callback is machine code that cffi makes
        yield "MemoryDenyWriteExecute=yes"


def _network(config: Config, user: bool = False) -> Iterator[str]:
    remote = {scheme for scheme in schemes([*sources_of(config), *config.sinks.values()]) if scheme not in LOCAL}
    hosts = [config.http.listen.host] if config.http else []
    hosts += [str(urlsplit(config.wake.listen).hostname)] if config.wake else []
    if not remote and not hosts:
        yield "RestrictAddressFamilies=AF_UNIX"
        yield "PrivateNetwork=yes"
        return
    announce = config.wake is not None and config.wake.announce  # it asks the kernel for the machine's addresses
    yield f"RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6{' AF_NETLINK' if announce else ''}"
    if not user and not remote and all(host in ("127.0.0.1", "::1", "localhost") for host in hosts):
        yield "IPAddressDeny=any"  # which a user's systemd has no right to
        yield "IPAddressAllow=localhost"


def _quoted(path: Path) -> str:
    """Return a path as systemd reads it: in quotes, with what stands for something else doubled."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if re.search(r"[\s'\"\\;]", text) else text
