from __future__ import annotations

import re
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgernn.errors import FailureError
from edgernn.events import Keyword, Message, Stamp

finite = st.floats(0, 1e6)


@given(st.text(), finite, finite, finite)
def test_one_line_there_and_back(word: str, score: float, start_s: float, end_s: float) -> None:
    event = Keyword(word, score, start_s, end_s)
    line = event.to_json()
    assert len(line.splitlines()) == 1
    assert Keyword.from_json(line) == event


@pytest.mark.parametrize("line", ["", "{}", "[1]", '{"event": "anomaly"}', '{"event": "keyword", "word": "up"}'])
def test_line_of_something_else_is_refused(line: str) -> None:
    with pytest.raises(FailureError, match="not the JSON line of a keyword"):
        Keyword.from_json(line)


def test_line_for_people_has_word_score_and_times() -> None:
    line = str(Keyword("left", 0.974, 1.2, 1.63))
    assert line.split() == ["1.20", "s", "left", "0.97", "(until", "1.63", "s)"]


@given(st.text(), st.text())
def test_messages_there_and_back(pipeline: str, word: str) -> None:
    stamp = Stamp()
    messages = [stamp(pipeline, Keyword(word, 0.5, 0.0, 1.0)) for _ in range(3)]
    lines = [message.to_json() for message in messages]
    assert [Message.from_json(line) for line in lines] == messages
    assert len({message.id for message in messages}) == 3
    assert all(len(line.splitlines()) == 1 for line in lines)


def test_message_has_the_time_in_utc_and_the_run_in_its_id() -> None:
    stamp = Stamp(lambda: datetime(2026, 11, 23, 8, 45, 0, 250_999, timezone.utc))
    message = stamp("hall", Keyword("left", 0.9, 0.5, 1.0))
    assert message.time == "2026-11-23T08:45:00.250Z"
    assert re.fullmatch("20261123T084500Z-[0-9a-f]{8}-1", message.id)
    with pytest.raises(FailureError, match="not the JSON line of a message: 'id'"):
        Message.from_json(message.event.to_json())
