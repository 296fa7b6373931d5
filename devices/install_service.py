"""`edgernn install-service`: systemd starts the daemon, watches it, and lets it do no more than it must.

edgernn install-service edge.toml --print
sudo edgernn install-service edge.toml
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgernn.devices.daemon.check import check
from edgernn.devices.daemon.load import load
from edgernn.devices.daemon.unit import MARK, unit_text
from edgernn.errors import FailureError, UsageError

__all__ = ["install", "main", "uninstall"]

REFUSALS = {  # settings of the kernel: the value with which a user has no namespaces
    "kernel/apparmor_restrict_unprivileged_userns": "1",  # Ubuntu, from 24.04 on
    "kernel/unprivileged_userns_clone": "0",
    "user/max_user_namespaces": "0",
}


def main(arguments: Sequence[str], prog: str) -> int:
    """Run the command; return the exit status."""
    options = _parser(prog).parse_args(arguments)
    unit = _unit_path(options.name, options.user)
    if options.uninstall:
        uninstall(unit, options.user)
        return 0
    if options.config is None:
        raise UsageError("name the configuration that the service is to run")
    file = Path(options.config).absolute()
    config = load(file)
    text = unit_text(file, config, _program(), options.name, options.user)
    if options.print:
        print(text, end="")
        return 0
    check(config)
    if options.user:
        _check_namespaces(Path("/proc/sys"))
    install(unit, text, options.user)
    return 0


def install(unit: Path, text: str, user: bool) -> None:
    """Write a unit and start it; a file of that name which is not ours stays."""
    _check_ours(unit)
    try:
        unit.parent.mkdir(parents=True, exist_ok=True)
        scratch = unit.with_name(f".{unit.name}.new")
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(unit)
    except PermissionError as error:
        raise FailureError(f"{unit} cannot be written: {error.strerror}; use sudo, or --user") from error
    print(f"{unit} is written", file=sys.stderr)
    if _systemctl(user, "daemon-reload"):
        _must(user, "enable", unit.name)
        _must(user, "restart", unit.name)
        print(f"it runs: {' '.join(_command(user))} status {unit.name}", file=sys.stderr)
    else:
        print("systemd does not run here; where it does, it starts with the system", file=sys.stderr)
    if user:
        print("it runs while you are logged in; for ever: loginctl enable-linger", file=sys.stderr)


def uninstall(unit: Path, user: bool) -> None:
    """Stop a unit and take it away; what the daemon keeps on disk stays."""
    if not unit.is_file():
        raise UsageError(f"there is no {unit}: nothing to take away")
    _check_ours(unit)
    _systemctl(user, "disable", "--now", unit.name)
    try:
        unit.unlink()
    except PermissionError as error:
        raise FailureError(f"{unit} cannot be taken away: {error.strerror}; use sudo, or --user") from error
    _systemctl(user, "daemon-reload")
    print(f"{unit} is taken away; what waited for sinks stays in the state folder", file=sys.stderr)


def _check_namespaces(settings: Path) -> None:
    """Raise `FailureError` where users have no namespaces, in which their units are fenced in."""
    for name, refuses in REFUSALS.items():
        with contextlib.suppress(OSError):
            if (settings / name).read_text().strip() == refuses:
                raise FailureError(
                    f"a user's service cannot be fenced in here, since {name.replace('/', '.')} is {refuses}: "
                    "install it for the system, with sudo and without --user, or change that (sysctl)"
                )


def _check_ours(unit: Path) -> None:
    if unit.exists() and not unit.read_text(encoding="utf-8", errors="replace").startswith(MARK):
        raise UsageError(f"{unit} was not written by edgernn install-service: choose another --name")


def _unit_path(name: str, user: bool) -> Path:
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"the name of a service has letters, digits, '-' and '_' only, not '{name}'")
    home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    return (home / "systemd/user" if user else Path("/etc/systemd/system")) / f"{name}.service"


def _program() -> Path:
    """Return the command as it lies beside the interpreter, or where the shell finds it."""
    beside = Path(sys.executable).absolute().with_name("edgernn")
    found = str(beside) if beside.is_file() else shutil.which("edgernn")
    if found is None:
        raise FailureError(f"there is no command edgernn beside {sys.executable}: pip install edgernn there")
    return Path(found)


def _command(user: bool) -> list[str]:
    return ["systemctl", *(["--user"] if user else [])]


def _systemctl(user: bool, *words: str) -> bool:
    try:
        done = subprocess.run([*_command(user), *words], capture_output=True, check=False, timeout=90)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _must(user: bool, *words: str) -> None:
    if not _systemctl(user, *words):
        name = words[-1]
        journal = f"journalctl {'--user ' if user else ''}-u {name}"
        raise FailureError(f"{' '.join([*_command(user), *words])} failed: see {journal}")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Have systemd run a configuration: a unit that is watched, hardened, and starts at boot."
    )
    add = parser.add_argument
    add("config", nargs="?", help="configuration of edgernn serve")
    add("--user", action="store_true", help="for your own systemd, without root")
    add("--name", default="edgernn", help="name of the service (default: edgernn)")
    add("--print", action="store_true", help="print the unit, and change nothing")
    add("--uninstall", action="store_true", help="stop the service and take its unit away")
    return parser
