"""What an artifact says of its bounded form: read back as it was written, and refused where it does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from edgernn.approximation import Approximation, OutputDistance, Row
from edgernn.errors import ArtifactError
from edgernn.spec import Reader

NEAR, FAR = OutputDistance("words", 0.01, 31.5, 0.99), OutputDistance("words", 0.4, 6.0, 0.75)
WHOLE = Approximation(
    asked="--bidirectional chunk=4,lookahead=8",
    nodes=("both: blocks of 4 frames, 8 frames of look-ahead",),
    varied="look-ahead",
    rows=(Row(0, 0, 4, (FAR,), 0.5), Row(8, 8, 4, (NEAR,), 0.9)),
    input="512 steps of clips.npz",
    source_accuracy=0.95,
)


def read(values: Any) -> Approximation:
    return Approximation.read(Reader(json.loads(json.dumps(values)), "manifest: ", "approximation."))


def test_it_is_read_as_it_was_written() -> None:
    assert read(WHOLE.to_dict()) == WHOLE


def test_a_frame_waits_for_its_step_and_for_the_look_ahead() -> None:
    assert [row.wait_frames for row in WHOLE.rows] == [3, 11]


def test_it_is_described_against_time() -> None:
    lines = WHOLE.describe(frame_rate_hz=100.0).splitlines()
    assert lines[:2] == [f"approximated, as asked for by {WHOLE.asked}:", f"  {WHOLE.nodes[0]}"]
    assert "the exact model: 95.00%" in lines[2]
    assert lines[-1].split() == ["8", "11", "110", "words", "31.5", "1.00e-02", "99.0%", "90.00%"]


def test_edges_are_left_out_or_not_and_have_no_amount() -> None:
    lines = replace(WHOLE, varied="edges", rows=WHOLE.rows[:1]).describe().splitlines()
    header, row = lines[-2].split(), lines[-1].split()
    assert (header[0], row[0]) == ("waits,", "3")
    assert "edges" not in header


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rows", []), ("rows", [1]), ("rows", [{"value": -1}]), ("nodes", "all"), ("asked", None), ("more", 1),
        ("source_accuracy", "much"), ("rows", [{**WHOLE.to_dict()["rows"][0], "outputs": [{"name": "words"}]}]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ArtifactError, match="approximation"):
        read({**WHOLE.to_dict(), key: value})
