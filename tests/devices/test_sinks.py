from __future__ import annotations

from pathlib import Path

import pytest

from edgernn.devices.sinks import open_sink
from edgernn.errors import UsageError
from edgernn.events import Keyword, Message, Stamp
from edgernn.testing import check_sink

STAMP = Stamp()
MESSAGES = [STAMP("hall", Keyword("left", 0.9, 0.5, 1.0)), STAMP("hall", Keyword("right", 0.8, 1.5, 2.0))]


@pytest.mark.parametrize("uri", ["-", "text:", "json:"])
def test_sinks_pass_the_checks(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_sink(lambda: open_sink(uri))
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_json_file_is_added_to_and_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    check_sink(lambda: open_sink(f"json:{path}"))
    path.unlink()
    for message in MESSAGES:
        sink = open_sink(f"json:{path}")
        sink.write(message)
        assert Message.from_json(path.read_text().splitlines()[-1]) == message  # before it is closed
        sink.close()
    assert [Message.from_json(line) for line in path.read_text().splitlines()] == MESSAGES


def test_sink_that_makes_no_sense(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no sink 'mqtt://hall'; the sinks are"):
        open_sink("mqtt://hall")
    with pytest.raises(UsageError, match=r"nowhere.*cannot be written: No such file"):
        open_sink(f"json:{tmp_path / 'nowhere' / 'events.jsonl'}")
