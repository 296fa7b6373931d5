from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgernn.decode.keyword import KeywordDecoder, KeywordSpec
from edgernn.errors import ArtifactError, ShapeError, UsageError
from edgernn.events import Keyword

LABELS = ("up", "down", "unknown", "silence")


def said(decoder: KeywordDecoder, rows: Any) -> list[Keyword]:
    return [event for row in rows if (event := decoder.push(np.array(row, np.float32))) is not None]


def test_average_over_three_steps_by_hand() -> None:
    spec = KeywordSpec("none", smoothing_ms=300, threshold=0.5)
    decoder = KeywordDecoder(spec, LABELS, step_seconds=0.1)
    quiet, up = [0.0, 0.0, 0.0, 1.0], [0.9, 0.0, 0.0, 0.1]
    events = said(decoder, [quiet, quiet, up, up, up, quiet])
    # Averages of "up": 0, 0, 0.3, 0.6, …; above half the threshold from the third step, decided in the fourth.
    assert events == [Keyword("up", 0.6, start_s=0.2, end_s=0.4)]


def test_what_was_before_the_stream_counts_as_nothing() -> None:
    decoder = KeywordDecoder(KeywordSpec("none", smoothing_ms=200, threshold=0.6), LABELS, 0.1)
    assert decoder.push(np.array([1.0, 0, 0, 0])) is None
    assert decoder.push(np.array([1.0, 0, 0, 0])) == Keyword("up", 1.0, 0.0, 0.2)


def test_softmax_is_that_of_the_formula_and_does_not_overflow() -> None:
    logits = np.array([2.0, 1.0, 0.0, -1.0], np.float32)
    expected = np.exp(2) / (np.exp(2) + np.exp(1) + 1 + np.exp(-1))
    for shift in (0, 1000):
        decoder = KeywordDecoder(KeywordSpec(smoothing_ms=0, threshold=0.5), LABELS, 0.1)
        event = decoder.push(logits + shift)
        assert event is not None
        assert event.score == pytest.approx(expected, abs=1e-4)


def test_ignored_labels_are_never_reported() -> None:
    decoder = KeywordDecoder(KeywordSpec("none", smoothing_ms=0), LABELS, 0.1)
    assert said(decoder, [[0, 0, 1, 0], [0, 0, 0, 1]]) == []


def test_word_that_stays_is_reported_once_and_again_after_a_pause() -> None:
    spec = KeywordSpec("none", smoothing_ms=0, refractory_ms=300)
    decoder = KeywordDecoder(spec, LABELS, 0.1)
    up, quiet = [1, 0, 0, 0], [0, 0, 0, 1]
    assert len(said(decoder, [up] * 10)) == 1  # refractory time over, and still the same word
    assert len(said(decoder, [quiet, up, quiet, up])) == 1  # the second one is too early
    assert len(said(decoder, [quiet] * 3 + [up])) == 1


def test_refractory_time_of_one_word_does_not_hide_another() -> None:
    decoder = KeywordDecoder(KeywordSpec("none", smoothing_ms=0), LABELS, 0.1)
    assert [event.word for event in said(decoder, [[1, 0, 0, 0], [0, 1, 0, 0]])] == ["up", "down"]


def test_every_word_has_its_threshold() -> None:
    spec = KeywordSpec("none", smoothing_ms=0, threshold={"up": 0.9})
    decoder = KeywordDecoder(spec, LABELS, 0.1)
    assert [event.word for event in said(decoder, [[0.7, 0, 0, 0], [0, 0.7, 0, 0], [0.95, 0, 0, 0]])] == ["down", "up"]


scores = st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), max_size=60)


@given(scores, st.integers(0, 5), st.integers(0, 8), st.floats(0.05, 1))
def test_properties(rows: list[list[float]], smoothing: int, refractory: int, threshold: float) -> None:
    spec = KeywordSpec("none", smoothing * 100.0, threshold, refractory * 100.0)
    decoder = KeywordDecoder(spec, LABELS, 0.1)
    events = said(decoder, rows)
    for event in events:
        assert event.word in ("up", "down")
        assert event.score >= threshold - 1e-4
        assert 0 <= event.start_s <= event.end_s <= len(rows) * 0.1 + 1e-9
    for word in ("up", "down"):
        times = [event.end_s for event in events if event.word == word]
        assert all(later - earlier >= refractory * 0.1 - 1e-6 for earlier, later in itertools.pairwise(times))
    decoder.reset()
    assert said(decoder, rows) == events


@given(
    st.lists(st.lists(st.floats(-9, 9), min_size=4, max_size=4), max_size=20),
    st.integers(0, 6),
    st.fixed_dictionaries({"up": st.floats(0.05, 1), "down": st.floats(0.05, 1)}),
    st.integers(0, 8),
)
def test_nothing_is_decided_before_it_can_be(
    rows: list[list[float]], smoothing: int, threshold: dict[str, float], refractory: int
) -> None:
    spec = KeywordSpec(smoothing_ms=smoothing * 100.0, threshold=threshold, refractory_ms=refractory * 100.0)
    decoder = KeywordDecoder(spec, LABELS, 0.1)
    said(decoder, rows)
    quiet = round(decoder.quiet_s / 0.1)
    assert 1 <= quiet <= max(1, smoothing)
    for word in ([99.0, 0, 0, 0], [0, 99.0, 0, 0]):
        loud = copy.deepcopy(decoder)
        assert said(loud, [word] * (quiet - 1)) == []


def test_quiet_is_as_long_as_it_can_be() -> None:
    decoder = KeywordDecoder(KeywordSpec(smoothing_ms=300, threshold=0.6), LABELS, 0.1)
    quiet, up = np.array([0.0, 0, 0, 99]), np.array([99.0, 0, 0, 0])
    assert decoder.quiet_s == pytest.approx(0.2)  # averages of a word that begins now: 1/3, 2/3
    decoder.push(quiet)
    assert decoder.quiet_s == pytest.approx(0.2)
    decoder.push(up)
    assert decoder.quiet_s == pytest.approx(0.1)
    assert decoder.push(up) is not None
    assert decoder.quiet_s == pytest.approx(0.2)  # that word rests, and another one has to rise
    assert KeywordDecoder(KeywordSpec("none", smoothing_ms=300), LABELS, 0.1).quiet_s == pytest.approx(0.1)


def test_what_is_averaged_is_bounded_and_cheap_to_look_ahead_in() -> None:
    with pytest.raises(UsageError, match="smoothing_ms must be at most 10000, not 1000000000"):
        KeywordSpec(smoothing_ms=1e9)
    assert KeywordDecoder(KeywordSpec(smoothing_ms=10_000, threshold=1), LABELS, 0.01).quiet_s == pytest.approx(1)


def test_spec_round_trip_and_defaults() -> None:
    spec = KeywordSpec(threshold={"up": 0.7}, smoothing_ms=50, ignore=("silence",))
    assert KeywordSpec.from_dict(spec.to_dict()) == spec
    assert KeywordSpec.from_dict({"kind": "keyword"}) == KeywordSpec()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "ctc"}, '"keyword", the only one known'),
        ({"kind": "keyword", "window": 3}, "unknown keys: window"),
        ({"kind": "keyword", "threshold": 0}, "above 0 and at most 1, not 0"),
        ({"kind": "keyword", "threshold": {"up": 1.5}}, "threshold of up"),
        ({"kind": "keyword", "threshold": "high"}, "malformed"),
        ({"kind": "keyword", "smoothing_ms": -1}, "smoothing_ms must be zero or more"),
        ({"kind": "keyword", "smoothing_ms": "long"}, "malformed"),
        ({"kind": "keyword", "activation": "sigmoid"}, "'softmax' or 'none', not 'sigmoid'"),
        ({"kind": "keyword", "ignore": 5}, "malformed"),
    ],
)
def test_manifest_that_does_not_fit_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        KeywordSpec.from_dict(values)


def test_decoder_refuses_what_does_not_fit() -> None:
    with pytest.raises(UsageError, match="set for left, and the labels are: up, down"):
        KeywordDecoder(KeywordSpec(threshold={"left": 0.5}), LABELS, 0.1)
    with pytest.raises(UsageError, match="more than zero seconds"):
        KeywordDecoder(KeywordSpec(), LABELS, 0.0)
    with pytest.raises(ShapeError, match=r"4 scores, one a label; found an array of shape \(3,\)"):
        KeywordDecoder(KeywordSpec(), LABELS, 0.1).push(np.zeros(3))
