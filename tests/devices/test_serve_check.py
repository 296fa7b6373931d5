"""What `edgernn serve` says before anything starts: `--check`, `--help`, and mistakes in a configuration."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edgernn.artifact import Artifact
from edgernn.cli import main
from edgernn.devices.daemon.outbox import Outbox
from tests.devices.test_serve import write_config


def test_check(tmp_path: Path, energy_artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path)
    assert main(["serve", str(tmp_path / "edge.toml"), "--check"]) == 0
    assert "hall      stdin:  energy" in capsys.readouterr().out
    write_config(tmp_path, '[pipeline.b]\nartifact="energy"\nsource="nowhere.wav"\nsinks="mtqt:x"\n', "nothing")
    assert main(["serve", str(tmp_path / "edge.toml"), "--check"]) == 2
    shown = capsys.readouterr().err
    places = [line.partition(": ")[0].rpartition("/")[2] for line in shown.partition("error: ")[2].splitlines()]
    assert places == ["edge.toml:3", "edge.toml:8", "edge.toml:9"], "artifact, source and sink"
    assert "nothing does not exist" in shown
    assert "the recording nowhere.wav is not there" in shown
    assert "there is no sink 'mtqt:x'" in shown
    write_config(tmp_path, '[pipeline.b]\nartifact="energy"\nsource="stdin:"\nsinks="command:notfy-send {word}"\n')
    assert main(["serve", str(tmp_path / "edge.toml"), "--check"]) == 2
    assert "the program notfy-send for events is not there" in capsys.readouterr().err


@pytest.mark.parametrize("check", [[], ["--check"]])
def test_two_pipelines_do_not_share_a_pipe(
    check: list[str], tmp_path: Path, energy_artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(tmp_path, '[pipeline.b]\nartifact = "energy"\nsource = "-"\n')
    assert main(["serve", str(tmp_path / "edge.toml"), *check]) == 2
    assert "edge.toml:8: pipeline.hall reads standard input, which can be heard only once" in capsys.readouterr().err


def test_check_looks_for_ports_and_the_folder(
    tmp_path: Path, energy_artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["serve", str(tmp_path / "edge.toml"), "--check"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        write_config(
            tmp_path,
            f'[http]\nlisten = "127.0.0.1:{port}"\n[wake]\nartifact = "energy"\nlisten = "tcp://127.0.0.1:{port}"\n',
        )
        assert main(command) == 2
        shown = capsys.readouterr().err
        assert f"edge.toml:7: nothing can listen on 127.0.0.1, port {port}: Address already in use" in shown
        assert f"edge.toml:10: nothing can listen on 127.0.0.1, port {port}" in shown
        (tmp_path / "state").mkdir()
        hold = (
            f"from {Outbox.__module__} import Outbox; o = Outbox({str(tmp_path / 'state/outbox.sqlite')!r}); input(1)"
        )
        holder = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert holder.stdout is not None
        assert holder.stdout.read(1)
        assert main(command) == 0, "a daemon runs, and has the ports"
        assert f"a daemon runs with the folder {tmp_path / 'state'}" in capsys.readouterr().out
        holder.communicate(b"\n")
        assert main(command) == 2
    assert main(command) == 2, "both want the same port"
    write_config(tmp_path)
    assert main([*command, "--set", "state=/dev/null/state"]) == 2
    assert "--set state: the folder /dev/null/state for what outlives the daemon cannot be made" in (
        capsys.readouterr().err
    )


def test_help_has_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    shown = capsys.readouterr().out
    for part in ("late_s=1,", "listen=127.0.0.1:8080", "sinks=text:,", "fast=false", "trusted_keys", "[sink.NAME]"):
        assert part in shown
    assert "=None" not in shown


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("pipeline.hall.source=mc:", "there is no source 'mc:'"),
        ("pipeline.hall.sinks=jsn:", "there is no sink 'jsn:'"),
        ("pipeline.hall.artifact=none", "none does not exist; expected the folder of an artifact"),
        ("state=/dev/null/state", "the folder /dev/null/state for what outlives the daemon cannot be made: Not a dir"),
        ("pipeline.hall.threshold={ hello = 0.5 }", "a threshold is set for hello, and the labels are: sound, silence"),
    ],
)
def test_mistakes_end_the_start(
    setting: str, words: str, tmp_path: Path, energy_artifact: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(tmp_path)
    assert main(["serve", str(tmp_path / "edge.toml"), "--set", setting]) in (1, 2)
    assert words in capsys.readouterr().err
