"""The unit that systemd is given, judged by systemd's own tools."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgernn.cli import main
from edgernn.devices import install_service
from edgernn.devices.daemon import reach
from edgernn.devices.daemon import unit as unit_module
from edgernn.devices.daemon.load import load
from edgernn.devices.daemon.reach import check_readable
from edgernn.devices.daemon.unit import MARK, unit_text
from edgernn.errors import FailureError, UsageError

CONFIGS = {
    "microphone": 'source = "mic:"\nsinks = "json:events.jsonl"\n',
    "network": 'source = "mic:"\nsinks = "broker"\n[sink.broker]\nuri = "mqtt://a@b"\npassword = {credential = "mqtt"}',
    "web": 'source = "serial:/dev/ttyUSB0"\n[http]\n',
    "wake": 'source = "recording.wav"\n[wake]\nartifact = "/opt/words"\nlisten = "tcp://0.0.0.0:10400"\n',
    "closed": 'source = "recording.wav"\n',
}


def unit_of(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, user: bool = False) -> Path:
    """Write the unit of a configuration; the folder of this test is a temporary one, which no service would see."""
    monkeypatch.setattr(unit_module, "check_readable", lambda *_: None)
    file = folder / "edge.toml"
    file.write_text(f'[pipeline.hall]\nartifact = "keyword"\n{CONFIGS[name]}')
    unit = folder / "edgernn.service"
    program = Path(shutil.which("true") or "/bin/true")
    unit.write_text(unit_text(file, load(file, {}), program, "edgernn", user))
    return unit


def analyze(*words: object) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("2026-11-23: systemd-analyze is not installed here, and nothing else judges a unit")
    return subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_systemd_has_nothing_to_say(name: str, user: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = analyze("verify", unit_of(name, tmp_path, monkeypatch, user))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("name", "system", "user"),
    [("microphone", 1.0, 1.4), ("network", 1.7, 1.9), ("web", 1.5, 1.9), ("wake", 1.7, 1.8), ("closed", 0.8, 1.1)],
)
def test_exposure_is_small(
    name: str, system: float, user: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for words, most in (([], system), (["--user"], user)):
        unit = unit_of(name, tmp_path, monkeypatch, bool(words))
        result = analyze("security", "--offline=true", *words, unit)
        found = re.search(r"exposure level for \S+: ([\d.]+)", result.stdout)
        assert found, result.stderr
        assert float(found[1]) <= most


def test_only_what_is_needed_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = {name: unit_of(name, tmp_path, monkeypatch).read_text() for name in CONFIGS}
    assert "DeviceAllow=char-alsa rw" in units["microphone"]
    assert "MemoryDenyWriteExecute" not in units["microphone"]
    assert "PrivateNetwork=yes" in units["microphone"]
    assert "LoadCredential=mqtt:%E/credstore/mqtt" in units["network"]
    assert "IPAddressDeny" not in units["network"]
    assert "DeviceAllow=char-ttyUSB rw" in units["web"]
    assert "IPAddressAllow=localhost" in units["web"]
    assert "PrivateDevices=yes" in units["closed"]
    assert "AF_INET" in units["wake"]
    assert "IPAddressDeny" not in units["wake"]
    assert "PrivateNetwork" not in units["wake"]


def test_what_a_service_cannot_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "edge.toml"
    file.write_text('[pipeline.hall]\nartifact = "keyword"\nsource = "mic:"\n')
    with pytest.raises(UsageError, match=r"is a temporary file, which a service does not see"):
        check_readable(Path("/tmp/edge.toml"), False)
    (tmp_path / "dark").mkdir(mode=0o700)
    monkeypatch.setattr(reach, "TEMPORARY", ())
    with pytest.raises(UsageError, match=r"own user cannot read /.*: chmod o\+rX"):
        check_readable(tmp_path / "dark", False)
    check_readable(tmp_path / "dark", True)
    file.write_text(f'state = "/srv"\n{file.read_text()}')
    with pytest.raises(UsageError, match="keeps its state in /var/lib/edgernn: leave the key 'state' out"):
        unit_text(file, load(file, {}), Path("/bin/true"), "edgernn", user=False)


def unit_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sinks: list[str], user: bool, at: str = "") -> str:
    """Return the unit of a configuration that a home holds."""
    monkeypatch.setattr(unit_module, "check_readable", lambda *_: None)
    (tmp_path / "edge.toml").write_text(
        f'[pipeline.hall]\nartifact = "{at or "/home/anna/edge/keyword"}"\nsource = "mic:"\nsinks = {sinks}\n'
        '[sink.b]\nuri = "mqtt://b"\nca = "/home/anna/ca.pem"\npassword = { file = "/home/anna/secrets/mqtt" }\n'
    )
    file = Path("/home/anna/edge/edge.toml")
    return unit_text(file, load(tmp_path / "edge.toml", {}), Path("/bin/true"), "edgernn", user)


def test_of_a_home_only_what_is_needed_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sinks = ["json:/home/anna/events/all.jsonl", "sqlite:/srv/all.sqlite", "unix:/home/anna/.run/socket"]
    lines = unit_at_home(monkeypatch, tmp_path, sinks, user=True).splitlines()
    assert "ProtectHome=tmpfs" in lines
    shown = [line.partition("=")[2] for line in lines if line.startswith("BindReadOnlyPaths=")]
    # The folder, not the file: what an editor or `edgernn convert` puts in its place would not be seen.
    assert {"/home/anna/edge", "/home/anna/ca.pem", "/home/anna/secrets/mqtt", "/home/anna/.run/socket"} <= {*shown}
    assert {"%t/systemd/notify", "-%t/pulse", "-%t/pipewire-0"} <= {*shown}
    assert "/home/anna" not in shown
    assert {"BindPaths=%S/edgernn", "BindPaths=/home/anna/events", "ReadWritePaths=/srv"} <= {*lines}
    assert "ProtectHome=read-only" in unit_at_home(monkeypatch, tmp_path, ["command:notify-send {word}"], user=True)


def test_what_a_service_cannot_do_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"a service writes to /var/lib/edgernn alone, and a sink writes to /home"):
        unit_at_home(monkeypatch, tmp_path, ["json:/home/anna/all.jsonl"], user=False)
    with pytest.raises(UsageError, match=r'the secret /home/anna/secrets/mqtt .* name it \{ credential = "NAME" \}'):
        unit_at_home(monkeypatch, tmp_path, [], user=False)
    for user in (True, False):
        with pytest.raises(
            UsageError, match=r"/home/anna/keyword lies in a home itself.*: give it a folder of its own"
        ):
            unit_at_home(monkeypatch, tmp_path, [], user, "/home/anna/keyword")


@pytest.mark.parametrize(("name", "value"), install_service.REFUSALS.items())
def test_users_without_namespaces_are_told(name: str, value: str, tmp_path: Path) -> None:
    install_service._check_namespaces(tmp_path)
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("2\n")
    install_service._check_namespaces(tmp_path)
    (tmp_path / name).write_text(f"{value}\n")
    with pytest.raises(FailureError, match=f"{name.replace('/', '.')} is {value}: install it for the system"):
        install_service._check_namespaces(tmp_path)


def test_names_with_spaces_and_percents_are_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "100 % of it"
    folder.mkdir()
    unit = unit_of("closed", folder, monkeypatch)
    assert '100 %% of it/edge.toml"' in unit.read_text()
    assert analyze("verify", unit).stderr == ""


def test_install_and_uninstall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, ...]] = []

    def systemctl(user: bool, *words: str) -> bool:
        calls.append(words)
        return True

    monkeypatch.setattr(install_service, "_systemctl", systemctl)
    unit = tmp_path / "systemd" / "edgernn.service"
    install_service.install(unit, f"{MARK}[Unit]\n", user=True)
    assert unit.read_text() == f"{MARK}[Unit]\n"
    install_service.uninstall(unit, user=True)
    assert not unit.exists()
    assert calls == [
        ("daemon-reload",), ("enable", unit.name), ("restart", unit.name),
        ("disable", "--now", unit.name), ("daemon-reload",),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="nothing to take away"):
        install_service.uninstall(unit, user=True)
    unit.write_text("[Unit]\n")
    with pytest.raises(UsageError, match="was not written by edgernn install-service"):
        install_service.install(unit, MARK, user=True)
    with pytest.raises(UsageError, match="was not written by edgernn install-service"):
        install_service.uninstall(unit, user=True)


def test_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install-service"]) == 2
    assert main(["install-service", "x.toml", "--name", "a/b"]) == 2
    assert "letters, digits" in capsys.readouterr().err
