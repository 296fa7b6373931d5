from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgernn.errors import FailureError
from edgernn.events import Keyword

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
