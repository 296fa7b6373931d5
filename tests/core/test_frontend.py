import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgernn.errors import ArtifactError, ShapeError, UsageError
from edgernn.frontend import FrontEnd, LogMel, _rfft_of, log_mel

SMALL = LogMel(rate_hz=8000, window_samples=200, hop_samples=80, fft_size=256, bands=20, high_hz=3800.0)
NOISE = np.random.default_rng(0).normal(0.0, 0.1, 24000).astype(np.float32)
WHOLE = {params: log_mel(NOISE, params) for params in (LogMel(), SMALL)}


def reference(samples: NDArray[np.float32], params: LogMel) -> NDArray[np.float64]:
    """Log-mel frames from the definitions, one number at a time where it matters, in double precision."""
    size, bins = params.fft_size, params.fft_size // 2 + 1
    fourier = np.exp(-2j * np.pi * np.outer(np.arange(bins), np.arange(size)) / size)
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / params.window_samples) for n in range(params.window_samples)]

    def mel(hz: float) -> float:
        return 1127.01048 * math.log(1 + hz / 700)  # the HTK Book's other way to write it

    def hertz(mels: float) -> float:
        return 700 * (math.exp(mels / 1127.01048) - 1)

    step = (mel(params.high_hz) - mel(params.low_hz)) / (params.bands + 1)
    corners = [hertz(mel(params.low_hz) + step * k) for k in range(params.bands + 2)]
    weights = np.zeros((bins, params.bands))
    for band in range(params.bands):
        left, centre, right = corners[band : band + 3]
        for k in range(bins):
            hz = k * params.rate_hz / size
            if left < hz <= centre:
                weights[k, band] = (hz - left) / (centre - left)
            elif centre < hz < right:
                weights[k, band] = (right - hz) / (right - centre)
    frames = []
    for start in range(0, len(samples) - params.window_samples + 1, params.hop_samples):
        windowed = np.zeros(size)
        windowed[: params.window_samples] = samples[start : start + params.window_samples] * np.array(hann)
        frames.append(np.log(np.maximum(np.abs(fourier @ windowed) ** 2 @ weights, params.floor)))
    return np.array(frames)


@pytest.mark.parametrize("params", [LogMel(), SMALL], ids=["16 kHz", "8 kHz"])
def test_frames_follow_the_definition(params: LogMel) -> None:
    tone = 0.3 * np.sin(2 * np.pi * 1000 / params.rate_hz * np.arange(4000))
    for sound in (NOISE[:4000], tone.astype(np.float32), np.zeros(4000, np.float32)):
        np.testing.assert_allclose(log_mel(sound, params), reference(sound, params), atol=2e-3)
    np.testing.assert_allclose(log_mel(NOISE[:4000], params), reference(NOISE[:4000], params), atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(cuts=st.lists(st.integers(0, len(NOISE)), max_size=60), params=st.sampled_from([LogMel(), SMALL]))
def test_any_cutting_gives_the_same_bits(cuts: list[int], params: LogMel) -> None:
    front_end = FrontEnd(params)
    parts = [front_end.push(part) for part in np.split(NOISE, sorted(cuts))]
    assert np.concatenate(parts).tobytes() == WHOLE[params].tobytes()


@pytest.mark.parametrize("size", [1, 7, 160, 161, 1024])
def test_even_chunks_give_the_same_bits(size: int) -> None:
    front_end, sound = FrontEnd(LogMel()), NOISE[:8000]
    parts = [front_end.push(sound[i : i + size]) for i in range(0, len(sound), size)]
    assert np.concatenate(parts).tobytes() == log_mel(sound, LogMel()).tobytes()


def test_normalisation_is_applied_after_the_logarithm() -> None:
    mean, std = tuple(np.linspace(-5, 2, 40)), tuple(np.linspace(0.5, 4, 40))
    normalised = log_mel(NOISE, LogMel(mean=mean, std=std))
    np.testing.assert_allclose(normalised, (WHOLE[LogMel()] - mean) / np.array(std), rtol=1e-5, atol=1e-5)


def test_reset_begins_a_new_stream() -> None:
    front_end = FrontEnd(LogMel())
    front_end.push(NOISE[5000:9999])
    front_end.reset()
    assert front_end.push(NOISE).tobytes() == WHOLE[LogMel()].tobytes()


def test_returned_frames_outlive_the_next_push() -> None:
    front_end = FrontEnd(LogMel())
    first = front_end.push(NOISE[:4000])
    kept = first.copy()
    front_end.push(NOISE[4000:])
    assert np.array_equal(first, kept)


def test_frame_and_sample_counts_agree_with_what_comes_out() -> None:
    params = LogMel()
    for samples in (0, 1, 399, 400, 559, 560, 16000):
        assert len(log_mel(NOISE[:samples], params)) == params.frame_count(samples)
    assert [params.frame_count(params.sample_count(n)) for n in range(5)] == list(range(5))
    assert params.frame_rate_hz == 100.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_refused_with_its_place_and_leaves_the_stream_as_it_was(bad: float) -> None:
    front_end = FrontEnd(LogMel())
    first = front_end.push(NOISE[:1000])
    broken = NOISE[1000:2000].copy()
    broken[234] = bad
    with pytest.raises(ShapeError, match=f"{bad} at sample 1234 of the stream"):
        front_end.push(broken)
    assert np.concatenate([first, front_end.push(NOISE[1000:])]).tobytes() == WHOLE[LogMel()].tobytes()


def test_samples_on_the_16_bit_scale_are_refused() -> None:
    with pytest.raises(ShapeError, match="divide 16-bit samples by 32768"):
        FrontEnd(LogMel()).push(NOISE * 32768)


@pytest.mark.parametrize("samples", [np.zeros((1, 400), np.float32), np.zeros(400, np.int16), [0.0] * 400])
def test_other_shapes_and_dtypes_are_refused(samples: NDArray[np.float32]) -> None:
    with pytest.raises(ShapeError, match=r"expected|float32 array of shape \(n,\)"):
        FrontEnd(LogMel()).push(samples)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate_hz": 0}, "rate_hz must be at least 1, not 0"),
        ({"bands": 0}, "bands must be at least 1"),
        ({"hop_samples": 0}, "1 <= hop_samples <= window_samples <= fft_size"),
        ({"hop_samples": 500}, "1 <= hop_samples <= window_samples <= fft_size"),
        ({"window_samples": 600}, "1 <= hop_samples <= window_samples <= fft_size"),
        ({"high_hz": 9000.0}, "high_hz <= rate_hz / 2, not 60.0, 9000.0, 8000.0"),
        ({"low_hz": math.nan}, "finite"),
        ({"floor": 0.0}, "floor must be above zero"),
        ({"mean": (0.0,)}, "must have 40 values"),
        ({"std": (0.0,) * 40}, "std must be above zero"),
    ],
)
def test_parameters_without_sense_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LogMel(**change)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match=message):
        LogMel.from_dict({**LogMel().to_dict(), **change})


def test_bands_narrower_than_the_fft_resolves_are_refused() -> None:
    with pytest.raises(UsageError, match=r"band 1 .* narrower"):
        FrontEnd(LogMel(bands=200))


def test_parameters_survive_their_dictionary() -> None:
    params = LogMel(mean=tuple(np.linspace(-5, 2, 40).tolist()), std=(2.0,) * 40)
    assert LogMel.from_dict(params.to_dict()) == params


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "mfcc"}, 'not of the "kind" "log-mel"'),
        ({"bands": "many"}, "malformed"),
        ({"bands": 40.5}, "not a whole number"),
        ({"mean": 3}, "malformed"),
        ({"pitch": 1}, r"unknown keys \(pitch\)"),
    ],
)
def test_a_malformed_dictionary_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        LogMel.from_dict({**LogMel().to_dict(), **change})


def test_a_dictionary_that_lacks_keys_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"lacks keys \(bands, "):
        LogMel.from_dict({"kind": "log-mel", "rate_hz": 16000})


@pytest.mark.parametrize("size", [512, 511])
def test_short_way_to_the_fft_changes_no_bit(size: int) -> None:
    rows = np.random.default_rng(0).standard_normal((7, size)).astype(np.float32)
    np.testing.assert_array_equal(_rfft_of(size)(rows), np.fft.rfft(rows))
