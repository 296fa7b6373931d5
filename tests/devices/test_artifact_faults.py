"""Artifacts that are replaced, spoilt or deadly, under a daemon that runs; `test_faults.py` has more ways."""

from __future__ import annotations

import json
import re
import signal
import sys
import urllib.request
from pathlib import Path

import pytest

from edgernn.artifact import Artifact
from edgernn.devices.signing import make_key, read_key, sign
from tests.devices import test_serve
from tests.devices.conftest import write_energy_artifact
from tests.devices.mosquitto import until
from tests.devices.test_serve import Start, events, pcm, start, undisturbed_of, write_config
from tests.devices.test_store import rewrite, spoil

__all__ = ["start"]  # a fixture

NO_GOOD = "hall: the last good artifact goes on: "


@pytest.mark.slow
def test_a_newer_artifact_takes_over_by_itself(start: Start, tmp_path: Path, energy_artifact: Artifact) -> None:
    daemon = start("--set", "store.watch_s=0.05")
    daemon.wait_for("READY=1")
    rewrite(energy_artifact, {"name": "newer"})
    daemon.wait_for("RELOADING=1")
    daemon.wait_for("READY=1")
    daemon.say(pcm(1))
    assert daemon.end() < 2
    assert "hall: newer" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_start_with_a_broken_artifact(start: Start, tmp_path: Path, energy_artifact: Artifact) -> None:
    for number in range(3):
        daemon, sound = start(), pcm(2)
        daemon.wait_for("READY=1")
        daemon.say(sound)
        assert daemon.end() < 2
        if number == 0:
            spoil("half a model", energy_artifact)
    assert (tmp_path / "log").read_text().count(NO_GOOD) == 2
    write_energy_artifact(energy_artifact.path)
    assert [message.event for message in events(tmp_path)] == 3 * undisturbed_of(tmp_path, sound)


@pytest.mark.slow
def test_health_says_whose_last_good_artifact_goes_on(start: Start, tmp_path: Path, energy_artifact: Artifact) -> None:
    def log() -> str:
        return (tmp_path / "log").read_text()

    def down() -> list[dict[str, str]]:
        place = re.findall(r"live page is at (http://\S+)", log())[-1]
        with urllib.request.urlopen(f"{place}health", timeout=10) as answer:
            found: list[dict[str, str]] = json.load(answer)["down"]
        return found

    daemon = start("--set", "store.watch_s=0.05", "--set", "http.listen=127.0.0.1:0")
    daemon.wait_for("READY=1")
    spoil("half a model", energy_artifact)
    daemon.wait_for("RELOADING=1")
    daemon.wait_for("READY=1")
    [fault] = down()
    assert fault["what"] == "artifact of hall"
    assert re.fullmatch(r"artifact refused: .*step\.tflite.*; the last good one goes on", fault["why"])
    assert "reloaded: hall (with its last good artifact)\n" in log()
    write_energy_artifact(energy_artifact.path)
    until(lambda: not down())
    assert log().rstrip().endswith("reloaded: hall")


DEADLY = """
import os, signal, sys, threading
from edgernn.cli import main
from edgernn.devices.daemon import prepare
open_stream = prepare.open_stream
def deadly(artifact, *rest):
    if artifact.name == "deadly":
        threading.Timer({after_s}, os.kill, (os.getpid(), signal.SIGSEGV)).start()
    return open_stream(artifact, *rest)
prepare.open_stream = deadly
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.0, 0.5])
def test_an_artifact_that_kills_the_daemon_again_and_again(
    after_s: float, start: Start, tmp_path: Path, energy_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes over from one that runs, the process dies, twice more at the start: then the one before goes on."""
    monkeypatch.setattr(test_serve, "EDGERNN", [sys.executable, "-c", DEADLY.format(after_s=after_s)])
    daemon = start("--set", "store.watch_s=0.05")
    daemon.wait_for("READY=1")
    rewrite(energy_artifact, {"name": "deadly"})
    for _ in range(2):
        assert daemon.process.wait(10) == -signal.SIGSEGV
        daemon = start("--set", "store.watch_s=0.05")
    daemon.wait_for("READY=1")
    daemon.say(pcm(2))
    assert daemon.end() < 2
    assert "ended the daemon 2 times just after it had begun with it" in (tmp_path / "log").read_text()
    assert len(events(tmp_path)) > 0


def test_check_of_signatures(tmp_path: Path, energy_artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    from edgernn.cli import main

    make_key(tmp_path / "release")
    write_config(tmp_path, '[store]\ntrusted_keys = "release.pub"\n')  # beside the configuration
    command = ["serve", str(tmp_path / "edge.toml"), "--check"]
    assert main(command) == 2
    assert "edge.toml:3: " in (shown := capsys.readouterr().err)
    assert "is not signed, and only signed artifacts are trusted here" in shown
    sign(energy_artifact, read_key(tmp_path / "release"))
    assert main(command) == 0
    write_config(tmp_path, '[store]\ntrusted_keys = "none.pub"\n')
    assert main(command) == 2
    assert "none.pub does not exist" in capsys.readouterr().err
