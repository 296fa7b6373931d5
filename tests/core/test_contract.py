"""The check of the stream contract: it passes what keeps it, and finds out what breaks it in any one way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgernn.stream import Context, State
from edgernn.testing import FakeRunner, Near, check_stream_contract

Array = NDArray[np.float32]


def running_sum(frames: Array) -> list[Array]:
    return [np.cumsum(frames, axis=0, dtype=np.float32)]


@pytest.mark.parametrize("frames_per_step", [1, 3])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_stream_that_keeps_it_passes(frames_per_step: int, batch: int) -> None:
    check_stream_contract(lambda: FakeRunner(2, frames_per_step, batch), running_sum)


class Leaking(FakeRunner):
    """Keeps something of what was before a reset."""

    def reset(self, stream: int | None = None, context: Context | None = None) -> None:
        self._sum = self._sum * np.float32(0.5)


class Forgetful(FakeRunner):
    """Begins anew after twenty steps."""

    made = 0

    def step(self, *frames: Array) -> tuple[Array, ...]:
        self.made += 1
        if self.made == 20:
            self._sum = np.zeros_like(self._sum)
        return super().step(*frames)


class Early(FakeRunner):
    """Declares a delay that it does not have."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        object.__setattr__(self.spec, "output_delays", (1,))


class Mixing(FakeRunner):
    """Lets the first stream into the others."""

    def step(self, *frames: Array) -> tuple[Array, ...]:
        (sums,) = super().step(*frames)
        return (sums + np.float32(0.01) * sums[:1],)


class Partial(FakeRunner):
    """Restores a state but for its last feature."""

    def restore(self, state: State, stream: int | None = None) -> None:
        kept = {name: array.copy() for name, array in state.items()}
        kept["sum"][:, -1] = 0
        super().restore(kept)


class Resetting(FakeRunner):
    """Resets all streams where one is asked for."""

    def reset(self, stream: int | None = None, context: Context | None = None) -> None:
        super().reset(None if stream is None else (stream + 1) % self.spec.batch)


BROKEN: dict[str, tuple[type[FakeRunner], int, str]] = {
    "a leaking reset": (Leaking, 1, "after a reset, cut in other places"),
    "a lost state": (Forgetful, 1, "differs from the whole sequence"),
    "a wrong delay": (Early, 1, "differs from the whole sequence"),
    "mixed streams": (Mixing, 2, "stream 0, output y differs from the whole sequence"),
    "half a restore": (Partial, 1, "from a snapshot after"),
    "a reset of another stream": (Resetting, 2, "after a reset of stream 0 alone"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_stream_that_breaks_it_is_found_out(fault: str) -> None:
    kind, batch, words = BROKEN[fault]
    with pytest.raises(AssertionError, match=words):
        check_stream_contract(lambda: kind(2, 1, batch), running_sum)


def test_near_is_a_share_or_decibels() -> None:
    def rough(frames: Array) -> list[Array]:
        return [running_sum(frames)[0] * np.float32(1.01)]

    def open_runner() -> Any:
        return FakeRunner(2)

    check_stream_contract(open_runner, rough, near=Near(0.2))
    check_stream_contract(open_runner, rough, near=Near(np.inf, 39.0))
    with pytest.raises(AssertionError, match=r"SNR 40\.[0-9] dB"):
        check_stream_contract(open_runner, rough)
    with pytest.raises(AssertionError, match=r"SNR 40\.[0-9] dB"):
        check_stream_contract(open_runner, rough, near=Near(np.inf, 41.0))
