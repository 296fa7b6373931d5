from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgernn.errors import FailureError
from edgernn.profile import Machine, Profile, Timing

MACHINE = Machine("Raspberry Pi 4", "Cortex-A72", 4, "aarch64", "Linux 6.6", "3.11.2", "ondemand", 51.5)


def profile(**changes: object) -> Profile:
    values: dict[str, object] = {
        "artifact": "words",
        "digest": "ab" * 32,
        "format": "tflite",
        "scheme": "dynamic-int8",
        "runtime": "ai-edge-litert 2.3.0",
        "threads": 1,
        "machine": MACHINE,
        "measured_at": "2026-01-01T00:00:00+00:00",
        "edgernn": "0.1.0",
        "timings": (
            Timing.of("step", [10.0] * 99 + [110.0]),
            Timing.of("step, paced", [20.0] * 1000),
            Timing.of("front end", [9.0]),
        ),
        "period_us": 40000.0,
        "deadline_misses": 2,
        "import_ms": 100.0,
        "open_ms": 5.0,
        "first_step_us": 300.0,
        "resident_bytes": 50_000_000,
        "runtime_bytes": 20_000_000,
    }
    return Profile(**{**values, **changes})  # type: ignore[arg-type]


def test_quantiles_by_hand() -> None:
    timing = Timing.of("step", np.arange(1.0, 1001.0)[::-1])
    assert (timing.p50_us, timing.p90_us, timing.p99_us, timing.p999_us) == (500, 900, 990, 999)
    assert (timing.count, timing.max_us, timing.mean_us) == (1000, 1000, 500.5)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_quantiles_are_in_order_and_among_the_times(times: list[float]) -> None:
    timing = Timing.of("step", times)
    ordered = [timing.p50_us, timing.p90_us, timing.p99_us, timing.p999_us, timing.max_us]
    assert ordered == sorted(ordered)
    assert set(ordered) <= {round(time, 3) for time in times}


def test_json_there_and_back() -> None:
    assert Profile.from_dict(json.loads(json.dumps(profile().to_dict()))) == profile()


def test_derived_values() -> None:
    assert profile().deadline_misses_per_million == 2000
    assert profile().real_time_factor == pytest.approx((11 + 9) / 40000)
    assert profile(period_us=None).real_time_factor is None
    assert profile(timings=()).deadline_misses_per_million is None


def test_text_has_what_was_measured() -> None:
    text = str(profile())
    for part in ("Raspberry Pi 4", "Cortex-A72", "2 (2000 per million)", "one every 40 ms", "50.0 MB", "p99.9"):
        assert part in text
    assert "–" in str(profile(period_us=None, timings=profile().timings[:1]))


def test_another_json_is_refused() -> None:
    for values in ({}, {"timings": [{"name": "x"}]}, {**profile().to_dict(), "machine": {}}):
        with pytest.raises(FailureError, match="not a profile"):
            Profile.from_dict(values)
    with pytest.raises(FailureError, match=r"edgernn wrote: it has no artifact$"):
        Profile.from_dict({"on": "pi"})
