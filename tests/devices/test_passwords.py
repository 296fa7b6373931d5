"""Passwords are never shown: by a check, in the log, or in what /health and the page say."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from edgernn.artifact import Artifact
from edgernn.cli import main
from edgernn.devices.daemon.config import PipelineConfig, SourceConfig
from edgernn.devices.daemon.counters import Counters
from edgernn.devices.daemon.listener import Listener
from edgernn.devices.daemon.log import logged
from edgernn.devices.daemon.prepare import prepare
from edgernn.errors import SourceError


def test_a_check_shows_none(tmp_path: Path, energy_artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "edge.toml").write_text('[pipeline.hall]\nartifact = "energy"\nsource = "stdin:"\n')
    (tmp_path / "secret").write_text("hidden\n")
    for setting in (
        'pipeline.hall.sinks=["mqtt://anna:hidden@broker/x", "https://anna:hidden@host/"]',
        'pipeline.hall.sinks=["mqts://anna:hidden@broker/x"]',
        'pipeline.hall.sinks=["mqtt://anna:hidden@/x"]',
        'pipeline.hall.sinks=["mqtt://broker/x?password=hidden&nothing=1"]',
        'pipeline.hall.sinks=["https://anna:hidden@host:99999/x"]',
        'sink.b={ uri = "mqtt://broker/x", password = "hidden", token = "hidden" }',
        'sink.b={ uri = "mqtt://broker/x", password = ["hidden"] }',
        'sink.b={ uri = "https://host/x", token = { file = "secret", more = "hidden" } }',
        "pipeline.hall.source=rtsp://anna:hidden@127.0.0.1:9/x",
        "pipeline.hall.source=rstp://anna:hidden@127.0.0.1:9/x",
    ):
        main(["serve", str(tmp_path / "edge.toml"), "--check", "--set", setting])
        printed = capsys.readouterr()
        assert "hidden" not in printed.out + printed.err, setting


def test_the_log_shows_none(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("edgernn.test")
    for form in ("json", "text"):
        with logged(form, "info"):
            log.warning("no answer from %s", "mqtts://anna:hidden@broker/x")
            try:
                raise ValueError("mqtts://anna:hidden@broker/x?token=hidden")
            except ValueError:
                log.exception("a bug")
        shown = capsys.readouterr().err
        assert "hidden" not in shown
        assert "mqtts://***@broker/x?token=***" in shown


def test_a_fault_shows_none(energy_artifact: Artifact) -> None:
    def fail(*_: object) -> Any:
        raise SourceError("nothing at rtsp://anna:hidden@camera")

    counters = Counters("hall")
    prepared = prepare(PipelineConfig("hall", energy_artifact.path, SourceConfig("mic:")))
    listener = Listener(prepared, fail, fail, counters)
    listener.start()
    while not counters.error:
        time.sleep(0.01)
    listener.stop()
    assert counters.error == "nothing at rtsp://***@camera"
