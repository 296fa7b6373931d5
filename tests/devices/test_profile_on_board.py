"""Profiling over SSH, against OpenSSH's server: what is measured comes back, and nothing stays there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from edgernn.artifact import Artifact
from edgernn.devices.profiling.files import read_profiles
from edgernn.devices.profiling.link import Address
from edgernn.devices.profiling.parcel import fitting
from edgernn.errors import UsageError
from tests.devices.loopback import SSHD, Board, bare_python, board, free_port
from tests.devices.needs import needs
from tests.devices.small_disk import small_disk

EDGERNN = [sys.executable, "-c", "import sys; from edgernn.cli import main; sys.exit(main())"]
QUICK = ["--steps", "300", "--seconds", "0.2", "--rounds", "1", "--python", sys.executable]
LONG = ["--steps", "300", "--seconds", "0.2", "--rounds", "0", "--python", sys.executable, "--sustain", "5m"]

needs_sshd = [
    pytest.mark.slow,
    needs(SSHD is None, "sshd: sudo apt install openssh-server"),
]


@pytest.fixture(scope="module")
def pi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with pytest.MonkeyPatch.context() as patch, board(tmp_path_factory.mktemp("pi"), "EDGERNN_SILENCE_S=3") as running:
        patch.setenv("EDGERNN_ALIVE_S", "0.5")
        yield running


def profile(artifact: Artifact, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*EDGERNN, "profile", str(artifact.path), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


@contextmanager
def started(artifact: Artifact, *words: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Start a long measurement, wait until it is under way on the board; give it and what it says."""
    command = [*EDGERNN, "profile", str(artifact.path), *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("minute" in line for line in process.stderr), "it ended before it began to measure"
        yield process, process.stderr


def wait_until(true: Callable[[], bool], seconds: float) -> float:
    begin = time.monotonic()
    while not true():
        assert time.monotonic() < begin + seconds, "it never came true"
        time.sleep(0.05)
    return time.monotonic() - begin


def running_in(folder: Path) -> list[int]:
    """Return the processes whose working folder lies there."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if str((path / "cwd").readlink()).startswith(str(folder)):
                found.append(int(path.name))
        except OSError:
            continue
    return found


def all_gone(pi: Board) -> bool:
    return not pi.left() and not running_in(pi.scratch)


class Wire:
    """A TCP relay to a board that can be cut: then bytes vanish, and neither end hears of it."""

    def __init__(self, port: int) -> None:
        self.cut = False
        self._ends: list[socket.socket] = []
        self._port, self._listener = port, socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._port))
        self._ends = [near, far]
        for pair in ((near, far), (far, near)):
            threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, origin: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := origin.recv(65536):
                if not self.cut:
                    target.sendall(data)

    def close(self) -> None:
        for end in [*self._ends, self._listener]:
            end.close()


class TestOnBoard:
    pytestmark = needs_sshd

    def test_result_comes_back_and_nothing_stays(self, pi: Board, energy_artifact: Artifact, tmp_path: Path) -> None:
        kept = tmp_path / "result.json"
        result = profile(energy_artifact, *pi.options, *QUICK, "--json", str(kept))
        assert result.returncode == 0, result.stderr
        (found,) = read_profiles(str(kept))
        assert (found.on, found.timings[0].count, len(found.rounds)) == (pi.address, 300, 1)
        assert "is gone" in result.stderr
        assert all_gone(pi)

    def test_several_boards_of_which_one_is_off(self, pi: Board, energy_artifact: Artifact, tmp_path: Path) -> None:
        with board(tmp_path / "jetson") as jetson:
            both = tmp_path / "known_hosts"
            both.write_text("".join((item.folder / "known_hosts").read_text() for item in (pi, jetson)))
            keys = ["--identity", str(pi.folder / "id"), "--identity", str(jetson.folder / "id")]
            off = f"127.0.0.1:{free_port()}"
            boards = [word for item in (pi.address, jetson.address, off) for word in ("--on", item)]
            kept = tmp_path / "all.json"
            words = [*boards, *keys, "--known-hosts", str(both), *QUICK, "--json", str(kept)]
            result = profile(energy_artifact, *words)
            assert kept.exists(), result.stderr
            assert {item.on for item in read_profiles(str(kept))} == {pi.address, jetson.address}
            assert result.returncode == 1
            assert f"{off} cannot be reached: Connection refused" in result.stderr
            assert all_gone(pi)
            assert all_gone(jetson)

    def test_unknown_and_changed_host_keys(self, pi: Board, energy_artifact: Artifact, tmp_path: Path) -> None:
        for content, said in (
            ("", f"the host key of {pi.address} is not in"),
            (f"[127.0.0.1]:{pi.port} {(pi.folder / 'id.pub').read_text()}", "shows another host key than the one in"),
        ):
            known = tmp_path / "known"
            known.write_text(content)
            words = ["--on", pi.address, "--identity", str(pi.folder / "id"), "--known-hosts", str(known)]
            result = profile(energy_artifact, *words, *QUICK)
            assert result.returncode == 1
            assert said in result.stderr
            assert len(result.stderr.splitlines()) == 2, "connecting, and one message"
        assert all_gone(pi)

    def test_key_that_nobody_knows(self, pi: Board, energy_artifact: Artifact) -> None:
        words = ["--on", pi.address, "--known-hosts", str(pi.folder / "known_hosts"), "--identity"]
        result = profile(energy_artifact, *words, str(pi.folder / "host"), *QUICK)
        assert result.returncode == 1
        assert "lets nobody in with these keys" in result.stderr

    def test_key_with_a_passphrase(self, pi: Board, energy_artifact: Artifact, tmp_path: Path) -> None:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", tmp_path / "key"], check=True)
        words = [
            "--on",
            pi.address,
            "--known-hosts",
            str(pi.folder / "known_hosts"),
            "--identity",
            str(tmp_path / "key"),
        ]
        result = profile(energy_artifact, *words, *QUICK)
        assert result.returncode == 1
        assert "its passphrase is asked for on a terminal, or use ssh-add" in result.stderr

    def test_names_and_jumps_of_ssh_configuration(
        self, pi: Board, energy_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / ".ssh").mkdir()
        there = f"HostName 127.0.0.1\nPort {pi.port}\nIdentityFile {pi.folder}/id\n"
        (tmp_path / ".ssh/config").write_text(f"Host gate\n{there}Host garden\n{there}ProxyJump gate\n")
        known = tmp_path / ".ssh/known_hosts"
        known.write_text((pi.folder / "known_hosts").read_text())
        words = ["--on", "garden", "--python", "/nowhere/python3"]
        assert "garden: /nowhere/python3 does not run there" in profile(energy_artifact, *words).stderr
        known.write_text(f"[127.0.0.1]:{pi.port} {(pi.folder / 'id.pub').read_text()}")
        assert "garden shows another host key" in profile(energy_artifact, *words).stderr

    def test_python_that_lacks_everything(self, pi: Board, energy_artifact: Artifact, tmp_path: Path) -> None:
        result = profile(energy_artifact, *pi.options, *QUICK, "--python", str(bare_python(tmp_path / "bare")))
        assert result.returncode == 1
        assert "lacks NumPy and a runtime (ai-edge-litert or tflite-runtime or onnxruntime)" in result.stderr
        assert f"pip download --only-binary=:all: --python-version 3.{sys.version_info[1]} --platform" in result.stderr
        missing = profile(energy_artifact, *pi.options, *QUICK, "--python", "/nowhere/python3")
        assert "/nowhere/python3 does not run there" in missing.stderr
        assert all_gone(pi)

    def test_failure_there_is_told(self, pi: Board, energy_artifact: Artifact) -> None:
        result = profile(energy_artifact, *pi.options, *QUICK, "--pin", "4000")
        assert result.returncode == 1
        assert "--pin 4000: this process may use the cores" in result.stderr
        assert all_gone(pi)

    def test_interrupt_keeps_what_was_measured(self, pi: Board, energy_artifact: Artifact, tmp_path: Path) -> None:
        kept = tmp_path / "kept.json"
        with started(energy_artifact, *pi.options, *LONG, "--json", str(kept)) as (process, said):
            assert not all_gone(pi)
            time.sleep(0.5)  # some steps
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            assert all_gone(pi), "gone when the command ends"
            assert "once more gives up what was measured" in said.read()
        (found,) = read_profiles(str(kept))
        assert found.sustained is not None
        assert found.sustained.stopped
        assert 0 < found.sustained.minutes[0].steps < 3000
        assert str(kept) in found.command, "the command that was given here, not the one there"

    def test_interrupt_before_anything_was_measured(self, pi: Board, energy_artifact: Artifact) -> None:
        command = [*EDGERNN, "profile", str(energy_artifact.path), *pi.options, *LONG]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert any("Python 3" in line for line in process.stderr)
            for _ in range(2):  # the second one in case the first one came when it was measuring already
                process.send_signal(signal.SIGINT)
                time.sleep(0.1)
            assert process.wait(20) == 130
            assert "Traceback" not in process.stderr.read()
        assert all_gone(pi)

    def test_full_disk_there(self, pi: Board, energy_artifact: Artifact, tmp_path: Path) -> None:
        with small_disk(tmp_path / "small", "100k"), board(tmp_path / "full", scratch=tmp_path / "small") as full:
            result = profile(energy_artifact, *full.options, *QUICK)
            assert result.returncode == 1
            assert "No space left on device" in result.stderr
            assert len(result.stderr.splitlines()) == 3, "connecting, the Python, and one message"
            assert all_gone(full)

    def test_what_a_killed_board_side_left_is_removed_by_the_next(self, pi: Board, energy_artifact: Artifact) -> None:
        with started(energy_artifact, *pi.options, *LONG) as (process, _):
            (folder,) = pi.scratch.iterdir()
            (child,) = running_in(folder)
            parent = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(parent, signal.SIGKILL)
            assert process.wait(20) == 1
            wait_until(lambda: not running_in(pi.scratch), 5)
        assert pi.left() == [folder.name], "nobody was there to remove it"
        assert "may use the cores" in profile(energy_artifact, *pi.options, *QUICK, "--pin", "4000").stderr
        assert all_gone(pi)

    def test_client_killed(self, pi: Board, energy_artifact: Artifact) -> None:
        with started(energy_artifact, *pi.options, *LONG) as (process, _):
            process.kill()
            process.wait(10)
            wait_until(lambda: all_gone(pi), 5)

    def test_network_cut_without_a_word(self, pi: Board, energy_artifact: Artifact, tmp_path: Path) -> None:
        wire = Wire(pi.port)
        known = tmp_path / "known"
        known.write_text(f"[127.0.0.1]:{wire.port} {(pi.folder / 'host.pub').read_text()}")
        words = ["--on", f"127.0.0.1:{wire.port}", "--identity", str(pi.folder / "id"), "--known-hosts", str(known)]
        with started(energy_artifact, *words, *LONG) as (process, said):
            wire.cut = True
            wait_until(lambda: all_gone(pi), 20)
            last = said.read().splitlines()[-1]
            assert "connection was lost" in last or "cannot be reached" in last
            assert process.wait(40) == 1
        wire.close()

    def test_program_there_killed(self, pi: Board, energy_artifact: Artifact) -> None:
        with started(energy_artifact, *pi.options, *LONG) as (process, said):
            (folder,) = pi.scratch.iterdir()
            for number in running_in(folder):
                os.kill(number, signal.SIGKILL)
            assert "exit status -9" in said.read()
            assert process.wait(20) == 1
            assert all_gone(pi)

    def test_bare_python_and_wheels(self, energy_artifact: Artifact, tmp_path: Path) -> None:
        python = bare_python(tmp_path / "bare")
        wheels = tmp_path / "wheels"
        pip = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "-d", str(wheels)]
        subprocess.run([*pip, "numpy", "onnxruntime"], check=True, capture_output=True)
        with board(tmp_path / "pi", f"PATH={python.parent}:/usr/bin:/bin") as bare:
            kept = tmp_path / "result.json"
            words = ["--steps", "300", "--seconds", "0.2", "--rounds", "1", "--wheels", str(wheels)]
            result = profile(energy_artifact, *bare.options, *words, "--json", str(kept))
            assert result.returncode == 0, result.stderr
            assert read_profiles(str(kept))[0].runtime.startswith("onnxruntime")
            assert all_gone(bare)


def test_board_side_takes_requests_without_ssh(tmp_path: Path) -> None:
    side = Path(__file__).parents[2] / "devices" / "profiling" / "board_side.py"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, side], stdin=-1, stdout=-1, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    requests = [{"do": "write", "path": "a/b", "bytes": 3}, {"do": "read", "path": "a/b"}, {"do": "read", "path": "no"}]
    content = [b"x\ny", b"", b""]
    for request, behind in zip(requests, content, strict=True):
        process.stdin.write(json.dumps(request).encode() + b"\n" + behind)
    process.stdin.close()
    folder, wrote, size = (json.loads(process.stdout.readline()) for _ in range(3))
    assert (wrote, size) == ({"done": "write"}, {"bytes": 3})
    assert process.stdout.read(3) == b"x\ny"
    assert json.loads(process.stdout.readline()) == {"failed": "No such file or directory"}
    assert json.loads(process.stdout.readline()) == {"gone": True}
    assert Path(folder["folder"]).parent == tmp_path
    assert process.wait(10) == 0
    assert list(tmp_path.iterdir()) == []
    process.stdout.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pi@host", ("pi", "host", None)),
        ("host:2222", (None, "host", 2222)),
        ("a@[fe80::1]:22", ("a", "fe80::1", 22)),
    ],
)
def test_address(text: str, expected: tuple[str | None, str, int | None]) -> None:
    address = Address.read(text)
    assert (address.user, address.host, address.port) == expected


@pytest.mark.parametrize("text", ["", "a@", "host:", "host:0", "host:99999", "-oProxyCommand=x", "a b", "a@b@c:"])
def test_address_that_makes_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="--on"):
        Address.read(text)


def test_only_wheels_that_fit_are_sent() -> None:
    names = [
        "numpy-2.4.6-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl",
        "numpy-2.4.6-cp312-cp312-manylinux_2_28_aarch64.whl",
        "numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl",
        "tqdm-4.67-py3-none-any.whl",
        "cryptography-45-cp39-abi3-manylinux_2_28_aarch64.whl",
        "nonsense.whl",
    ]
    kept = [path.name for path in fitting([Path(name) for name in names], (3, 11, 2), "aarch64", (2, 36))]
    assert kept == [names[0], names[3], names[4]]
    older = [path.name for path in fitting([Path(name) for name in names], (3, 11, 2), "aarch64", (2, 26))]
    assert older == [names[3]], "the others want a newer C library"


def test_newest_of_several_wheels_is_sent() -> None:
    names = ["numpy-2.9.0-py3-none-any.whl", "numpy-2.10.1-py3-none-any.whl", "numpy-1.26.4-py3-none-any.whl"]
    assert [path.name for path in fitting([Path(name) for name in names], (3, 11), "armv7l")] == [names[1]]
