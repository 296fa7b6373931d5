"""The rows of the live page's picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgernn.devices.daemon.spectrogram import MOST_FEATURES, Spectrogram

SOUND = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)


@given(st.lists(st.integers(0, 16000), max_size=12))
def test_rows_do_not_depend_on_the_cut(cuts: list[int]) -> None:
    whole, pieces = Spectrogram(16000), Spectrogram(16000)
    rows = [pieces.push(piece) for piece in np.split(SOUND, sorted(cuts))]
    assert np.array_equal(np.concatenate(rows), whole.push(SOUND))
    assert (whole.row_s, len(np.concatenate(rows))) == (0.02, 49)


@pytest.mark.parametrize("rate_hz", [100, 1000, 8000, 22050, 48000])
def test_any_rate(rate_hz: int) -> None:
    spectrogram = Spectrogram(rate_hz)
    time_s = np.arange(4 * rate_hz) / rate_hz
    rows = spectrogram.push((0.5 * np.sin(2 * np.pi * rate_hz / 8 * time_s)).astype(np.float32))
    assert len(rows) * spectrogram.row_s == pytest.approx(4, abs=0.7)
    assert rows.mean(axis=0).max() > rows.mean(axis=0).min() + 50, "a tone stands out"


def test_silence_is_dark_and_full_scale_is_bright() -> None:
    assert Spectrogram(16000).push(np.zeros(16000, np.float32)).max() == 0
    loud = np.sign(np.sin(np.arange(16000) / 20)).astype(np.float32)
    assert Spectrogram(16000).push(loud).max() > 240


@pytest.mark.parametrize("shape", [(3,), (64,), (65,), (8, 8, 3), (96, 96, 3)])
def test_frames_of_any_shape(shape: tuple[int, ...]) -> None:
    spectrogram = Spectrogram(25.0)
    frames = np.random.default_rng(0).normal(0, 7, (10, *shape)).astype(np.float32)
    rows = spectrogram.push(frames)
    assert rows.shape == (10, min(int(np.prod(shape)), MOST_FEATURES))
    assert (spectrogram.row_s, rows.min(), rows.max() >= 254) == (0.04, 0, True)
    assert spectrogram.push(frames[:0]).shape[0] == 0
    assert Spectrogram(25.0).push(np.full((2, *shape), 5, np.float32)).max() == 0
