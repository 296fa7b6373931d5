import numpy as np
import pytest

from edgernn.train.augment import add_noise, change_speed, coloured_noise, cut, mask, place, rms, tilt


def random() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_noise_is_as_far_below_the_signal_as_asked(snr_db: float) -> None:
    signal = np.sin(np.arange(16000) * 0.1).astype(np.float32)
    noise = random().normal(0, 0.003, 16000).astype(np.float32)
    mixed = signal.copy()
    add_noise(mixed, noise, snr_db, rms(signal))
    assert 20 * np.log10(rms(signal) / rms(mixed - signal)) == pytest.approx(snr_db, abs=0.01)


def test_silent_noise_adds_nothing() -> None:
    stream = np.ones(10, np.float32)
    add_noise(stream, np.zeros(10, np.float32), 0.0, 1.0)
    assert np.array_equal(stream, np.ones(10))


@pytest.mark.parametrize(("start", "expected"), [(-3, [0, 0, 0]), (-1, [2, 0, 0]), (2, [0, 0, 1]), (3, [0, 0, 0])])
def test_what_lies_outside_the_stream_is_dropped(start: int, expected: list[float]) -> None:
    stream = np.zeros(3, np.float32)
    place(stream, np.array([1, 2], np.float32), start)
    assert stream.tolist() == expected


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_speed_changes_length_and_pitch(factor: float) -> None:
    tone = np.sin(2 * np.pi * 500 * np.arange(16000) / 16000).astype(np.float32)
    played = change_speed(tone, factor)
    assert len(played) == int(16000 / factor)
    peak = np.abs(np.fft.rfft(played)).argmax() * 16000 / len(played)
    assert peak == pytest.approx(500 * factor, abs=1.5)


def test_noise_is_cut_at_random_and_short_noise_repeated() -> None:
    recording = np.arange(1000, dtype=np.float32)
    part = cut([recording], 100, random())
    assert np.array_equal(part, np.arange(part[0], part[0] + 100))
    assert cut([recording[:3]], 7, random()).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_coloured_noise_has_its_level_and_differs() -> None:
    generator = random()
    first, second = coloured_noise(20000, generator), coloured_noise(20000, generator)
    assert rms(first) == pytest.approx(0.1, rel=1e-3)
    assert not np.allclose(first, second)


@pytest.mark.parametrize(("axis", "widest"), [(1, 5), (2, 4)])
def test_masks_are_spans_of_zeros_no_wider_than_allowed(axis: int, widest: int) -> None:
    frames = np.ones((50, 30, 20), np.float32)
    mask(frames, 1, widest, axis, random())
    masked = (frames == 0).all(axis=3 - axis)
    assert (frames.sum(axis=(1, 2)) == 600 - masked.sum(axis=1) * (20 if axis == 1 else 30)).all()
    assert set(masked.sum(axis=1).tolist()) == set(range(widest + 1))
    for row in masked:
        places = np.flatnonzero(row)
        assert len(places) == 0 or places[-1] - places[0] + 1 == len(places)


def test_tilt_is_smooth_bounded_and_the_same_for_all_frames_of_a_stream() -> None:
    frames = np.zeros((8, 5, 40), np.float32)
    tilt(frames, np.full(40, 2.0), random())
    assert (frames == frames[:, :1]).all()
    assert np.abs(frames).max() <= 2.0
    assert np.abs(np.diff(frames, axis=2)).max() <= 2 * 2.0 * 4 / 39 + 1e-6
    assert np.abs(frames[0] - frames[1]).max() > 0.1


def test_the_same_generator_gives_the_same_result() -> None:
    assert np.array_equal(coloured_noise(5000, random()), coloured_noise(5000, random()))
