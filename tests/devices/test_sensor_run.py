"""An artifact without a front end, from frames to alarms: `edgernn run`, and the daemon."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from edgernn.artifact import write_artifact
from edgernn.cli import main
from edgernn.decode.alarm import AlarmSpec
from edgernn.events import Alarm, Message
from tests.devices.conftest import content_of, spec_of
from tests.devices.mosquitto import until
from tests.devices.test_serve import EDGERNN

HZ = 50.0


def write_delay(path: Path, **facts: object) -> Path:
    """Write the model "delay", which gives what it got two frames ago: an autoencoder that makes no mistakes."""
    stream = dataclasses.replace(spec_of("delay"), output_delays=(2,)).to_dict()
    files = {f"step.{kind}": content_of("delay", kind) for kind in ("tflite", "onnx")}
    steps = {kind: {"file": f"step.{kind}", "scheme": "float32", "stream": stream} for kind in ("tflite", "onnx")}
    alarm = AlarmSpec(2.0, "hot", duration_ms=100, refractory_ms=500, name="overheated")
    manifest = {
        "name": "delay",
        "programs": {"step": steps},
        "labels": ["cold", "hot"],
        "frame_rate_hz": HZ,
        "decoder": alarm.to_dict(),
        "conversion": {},
        "parity": {},
    }
    write_artifact(path, {key: value for key, value in {**manifest, **facts}.items() if value is not None}, files)
    return path


def rows(count: int, hot: range) -> list[str]:
    return [f"{number},{3 if number in hot else 0}" for number in range(count)]


def test_run_says_alarms_and_what_was_held(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact, table = write_delay(tmp_path / "delay"), tmp_path / "readings.csv"
    lines = rows(200, range(60, 120))
    lines[10], lines[20] = "10,", "broken"
    table.write_text("cold,hot\n" + "\n".join(lines) + "\n")
    assert main(["run", str(artifact), str(table), "--fast", "--sink", "json:"]) == 0
    said = capsys.readouterr()
    assert [Message.from_json(line).event for line in said.out.splitlines()] == [Alarm("overheated", 3.0, 1.2, 1.3)]
    assert "3.98 s of frames" in said.err
    assert "200 steps" in said.err  # one of them with the frame before it held
    assert "1 frames lost, 1 held, 1 events" in said.err


def test_duration_ends_a_source_that_gives_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact, table = write_delay(tmp_path / "delay"), tmp_path / "readings.csv"
    table.write_text("cold,hot\n0,0\n")
    begin = time.monotonic()
    assert main(["run", str(artifact), f"csv:{table}?follow", "--duration", "0.1"]) == 0
    assert time.monotonic() - begin < 5
    assert "0.00 s of frames" in capsys.readouterr().err


def test_run_takes_another_decoder_rate_and_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact, table = write_delay(tmp_path / "delay", decoder=None, frame_rate_hz=None), tmp_path / "readings.csv"
    table.write_text("time;hot;cold\n" + "".join(f"x;{number};{-number}\n" for number in range(100)))
    uri = f"csv:{table}?columns=cold,hot&delimiter=;"
    words = ["run", str(artifact), "--fast", "--source"]
    distance = ["--decoder", "alarm:distance?threshold=1e-6"]
    assert main([*words, f"{uri}&rate=10", *distance]) == 0
    assert capsys.readouterr().out == ""
    assert main([*words, f"{uri}&rate=10", "--decoder", "alarm:y[0]?threshold=-50&below=true&name=deep"]) == 0
    assert capsys.readouterr().out.split()[:4] == ["5.00", "s", "deep", "-50.00"]
    for wrong, what in (
        ([f"{uri}&rate=10"], "has no decoder"),
        ([uri, *distance], "does not say how many frames a second it takes"),
        ([f"{uri}&rate=10", "--decoder", "alarm:z?threshold=1"], "has no 'z' to watch; it has: cold, hot, y, distance"),
        ([f"{uri}&rate=10", "--decoder", "alarm:y[0]"], "lacks its threshold"),
        ([f"{uri}&rate=10", "--decoder", "bell:"], "no decoder of the kind 'bell'; there are: keyword, alarm"),
        ([f"{uri}&rate=10", *distance, "--threshold", "hot=1"], "an alarm has one threshold"),
    ):
        assert main([*words, *wrong]) > 0
        assert what in capsys.readouterr().err


MISTAKES = {
    'decoder = "alarm:z?threshold=1"': (5, "has no 'z' to watch"),
    "threshold = { hot = 0.5 }": (5, "an alarm has one threshold"),
    "smoothing_ms = 9": (5, "smoothing_ms and ignore are for words"),
    "late_s = 1": (4, "does not say how many frames a second it takes"),
    "decoder = 'keyword:'\nthreshold = { hott = 0.5 }": (6, "a threshold is set for hott"),
}


@pytest.mark.parametrize("line", MISTAKES)
def test_check_names_the_line_of_the_key(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_delay(tmp_path / "delay", frame_rate_hz=None if "late" in line else HZ)
    (tmp_path / "readings.csv").write_text("cold,hot\n")
    (tmp_path / "edge.toml").write_text(
        f'state = "{tmp_path / "state"}"\n[pipeline.oven]\nartifact = "delay"\n'
        f'source = "csv:{tmp_path / "readings.csv"}?follow"\n{line}\n'
    )
    for words in (["--check"], []):
        assert main(["serve", str(tmp_path / "edge.toml"), *words]) == 2
        number, what = MISTAKES[line]
        assert f"edge.toml:{number}: " in (said := capsys.readouterr().err)
        assert what in said


def test_words_may_be_of_a_sensor_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact, table = write_delay(tmp_path / "delay"), tmp_path / "readings.csv"
    table.write_text("\n".join(rows(100, range(50, 80))))
    keyword = "keyword:?threshold=0.9&ignore=cold&activation=none&smoothing_ms=0"
    assert main(["run", str(artifact), str(table), "--fast", "--decoder", keyword]) == 0
    assert capsys.readouterr().out.split()[:3] == ["1.00", "s", "hot"]


def test_help_has_the_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    said = capsys.readouterr().out
    for scheme in ("rtp://", "folder:", "csv:", "mqtt://", "serial:", "iio:", "camera:", "rtsp://", "alarm:WATCH"):
        assert f"\n  {scheme}" in said
    assert max(map(len, said.splitlines())) < 140


CONFIGURATION = """
[pipeline.oven]
artifact = "delay"
source = "csv:{folder}/readings.csv?follow"
sinks = ["json:{folder}/events.jsonl"]
decoder = {{ kind = "alarm", watch = "hot", threshold = 2, name = "overheated", refractory_ms = 0 }}

[pipeline.line]
artifact = "delay"
source = {{ uri = "serial:{folder}/tty", fields = ["c", "h"] }}
sinks = ["json:{folder}/events.jsonl"]
threshold = 100
"""


@pytest.mark.slow
def test_daemon_follows_sensors_through_faults(tmp_path: Path) -> None:
    write_delay(tmp_path / "delay")
    table, log = tmp_path / "readings.csv", tmp_path / "log"
    table.write_text("cold,hot\n")
    configuration = tmp_path / "edge.toml"
    configuration.write_text(CONFIGURATION.format(folder=tmp_path))
    ends = ["pty,raw,echo=0,link=" + str(tmp_path / name) for name in ("tty", "device")]
    wires = [subprocess.Popen(["socat", *ends])]
    until(lambda: (tmp_path / "tty").exists() and (tmp_path / "device").exists())
    with log.open("w") as file:
        command = [*EDGERNN, "serve", str(configuration), "--set", f"state={tmp_path / 'state'}"]
        daemon = subprocess.Popen(command, stderr=file)

    def told() -> list[str]:
        path = tmp_path / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [f"{message['pipeline']} {message['name']}" for message in map(json.loads, lines)]

    def say(name: str, text: str, times: int = 8) -> None:
        with (tmp_path / name).open("a" if name.endswith("csv") else "w") as file:
            for _ in range(times):
                file.write(text)
                file.flush()
                time.sleep(0.02)

    try:
        until(lambda: "ready" in log.read_text())
        say("readings.csv", "1,3\n")
        until(lambda: told() == ["oven overheated"])
        say("device", '{"c": 1, "h": 150}\nERR\n')
        until(lambda: told()[1:] == ["line overheated"])
        wires[0].terminate()
        wires[0].wait()
        wires.append(subprocess.Popen(["socat", *ends]))
        while "the source is back" not in log.read_text():
            say("device", '{"c": 1, "h": 0}\n', 2)
        time.sleep(0.6)
        say("device", '{"c": 1, "h": 150}\n', 20)
        until(lambda: told()[2:] == ["line overheated"])
        table.rename(tmp_path / "old.csv")
        table.write_text("cold,hot\n0,0\n0,0\n0,0\n0,0\n")
        time.sleep(0.2)
        say("readings.csv", "1,3\n")
        until(lambda: told()[3:] == ["oven overheated"])
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(5) == 0
    finally:
        for process in (daemon, wires[-1]):
            process.kill()
            process.wait()
    assert "Traceback" not in log.read_text()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == 4
