"""The stream contract: stepping gives what the whole sequence gives, once the declared latency is taken off.

It holds for any input, any way to cut it into chunks, every stream of a batch, after a reset and after a snapshot
that another runner restores. (After `verify_contract` of google/sequence-layers, which proves layers that were
written for it; here the model is any function of whole sequences.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.spec import StreamSpec
from edgernn.stream import FrameBatch, Runner
from edgernn.testing.latency import Whole

__all__ = ["Near", "check_stream_contract"]

Lane = list[NDArray[Any]]
"""One stream: an array for each input, `(frames, features...)`."""
Rows = Sequence[NDArray[np.float32]]
"""What came out of one stream: an array for each output, `(rows, features...)`."""

BEGINNINGS = 4  # lengths for which a model that gives one value for the sequence is asked


@dataclass(frozen=True)
class Near:
    """How near a stream must come to the whole sequence."""

    error: float = 1e-4
    """Largest absolute error, as a share of the output's standard deviation where that is above one."""
    snr_db: float = -np.inf
    """Least power of the output over power of the error, decibels: for what is quantized, give this and an error of
    infinity."""

    def complaint(self, found: NDArray[np.float32], truth: NDArray[np.float32]) -> str | None:
        """Return in words how far `found` is from `truth`, None where it is near enough."""
        error = np.abs(found.astype(np.float64) - truth).reshape(len(truth), -1)
        worst, scale = float(error.max()), max(1.0, float(truth.std()))
        noise, power = float(np.mean(error**2)), float(np.mean(truth.astype(np.float64) ** 2))
        snr_db = np.inf if noise == 0 else 10 * np.log10(max(power, 1e-30) / noise)
        if worst <= self.error * scale and snr_db >= self.snr_db:
            return None
        row = int(error.max(1).argmax())
        return f"differs from the whole sequence by {worst:.3g} (SNR {snr_db:.1f} dB), worst in row {row}"


def check_stream_contract(
    open_runner: Callable[[], Runner],
    whole: Whole,
    steps: int = 48,
    near: Near | None = None,
    late: Sequence[int] | None = None,
    seed: int = 0,
) -> None:
    """Check that what `open_runner` opens steps as `whole` computes; raise `AssertionError` where it does not.

    Every stream of a batch gets noise (or numbers that its tables have) for `steps` steps. `late` tells, for each
    output, by how many input frames it is later than the source, which matters where it is one value for the sequence
    (default: what the runner declares for the latest one, where all are such values, else 0). Restarts must give the
    same bits; the source must be met as `near` says.

    >>> from edgernn.testing import FakeRunner
    >>> check_stream_contract(lambda: FakeRunner(features=2), lambda frames: [np.cumsum(frames, axis=0)])
    """
    runner, other = open_runner(), open_runner()
    try:
        check = _Check(runner, whole, steps, near or Near(), late, np.random.default_rng(seed))
        first = check.in_cuts()
        check.against_source(first, "cut at random")
        check.after_reset(first)
        check.after_reset_of_one(first)
        check.after_restore(other)
    finally:
        runner.close()
        other.close()


class _Check:
    """The runner, and the noise that its streams are given."""

    def __init__(
        self, runner: Runner, whole: Whole, steps: int, near: Near, late: Sequence[int] | None, rng: np.random.Generator
    ) -> None:
        self.runner, self.whole, self.steps, self.near, self.rng = runner, whole, steps, near, rng
        self.spec: StreamSpec = runner.spec
        declared = self.spec.latency_frames if set(self.spec.output_kinds) == {"prefix"} else 0
        self.late = late or [declared] * len(self.spec.outputs)
        self.batch = FrameBatch(runner)
        self.lanes = [self._noise() for _ in range(self.spec.batch)]
        context = self.spec.example_context(rng)
        self.batch.reset(context=context)
        given = zip(*context.values(), strict=True) if self.spec.batch > 1 else [tuple(context.values())]
        self.held = list(given) if context else [()] * self.spec.batch

    def _noise(self) -> Lane:
        drawn = [[self._one(tensor.example(self.rng)) for tensor in self.spec.inputs] for _ in range(self.steps)]
        return [np.concatenate(arrays) for arrays in zip(*drawn, strict=True)]

    def _one(self, example: NDArray[Any]) -> NDArray[Any]:
        return example if self.spec.batch == 1 else example[0]

    def in_cuts(self) -> list[Rows]:
        """Push all streams, each in cuts of its own, some of them empty; return what came out of each."""
        pieces, count = [], 2 + int(self.rng.integers(8))
        for lane in self.lanes:
            cuts = np.sort(self.rng.integers(0, len(lane[0]) + 1, count - 1))
            pieces.append(list(zip(*(np.split(array, cuts) for array in lane), strict=True)))
        pushed = [self.batch.push(parts) for parts in zip(*pieces, strict=True)]
        return [
            [np.concatenate([rows[lane][index] for rows in pushed]) for index in range(len(self.spec.outputs))]
            for lane in range(self.spec.batch)
        ]

    def against_source(self, found: Sequence[Rows], how: str) -> None:
        """Compare with the whole sequences."""
        for number, (rows, lane) in enumerate(zip(found, self.lanes, strict=True)):
            truths = self.whole(*lane, *self.held[number])
            assert len(truths) == len(self.spec.outputs), f"the source gives {len(truths)} outputs"
            for index, output in enumerate(self.spec.outputs):
                wanted = self.steps * self._rows_per_step(index) - self.spec.output_delays[index]
                assert len(rows[index]) == wanted, f"{len(rows[index])} rows came out, {wanted} should have"
                made, truth = self._pairs(index, rows[index], truths[index], number)
                complaint = self.near.complaint(made, truth)
                assert complaint is None, f"{how}, stream {number}, output {output.name} {complaint}"

    def _rows_per_step(self, index: int) -> int:
        return 1 if self.spec.output_kinds[index] == "prefix" else self.spec.outputs[index].shape[1]

    def _pairs(
        self, index: int, rows: NDArray[np.float32], truth: NDArray[np.float32], number: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what came out, and what the source gives for it: row by row, or for a few beginnings."""
        if self.spec.output_kinds[index] == "frames":
            return rows, truth[: len(rows)]
        chosen = np.unique(np.linspace(0, len(rows) - 1, BEGINNINGS).astype(int))
        ends = (chosen + 1 + self.spec.output_delays[index]) * self.spec.frames_per_step - self.late[index]
        known = ends > 0
        lane, held = self.lanes[number], self.held[number]
        truths = [self.whole(*(array[:end] for array in lane), *held)[index] for end in ends[known]]
        return rows[chosen[known]], np.stack(truths)

    def after_reset(self, first: Sequence[Rows]) -> None:
        """Begin anew, cut in other places: the same bits."""
        self.batch.reset()
        again = self.in_cuts()
        assert _same(first, again), "after a reset, cut in other places, the outputs are not the same bits"

    def after_reset_of_one(self, first: Sequence[Rows]) -> None:
        """Begin one stream anew in the middle: it is as at the beginning, and the others go on."""
        for number in range(self.spec.batch):
            self.batch.reset(number)
            fresh = [self._noise() for _ in self.lanes]
            fresh[number] = self.lanes[number]
            rows = self.batch.push(fresh)[number]
            assert _same([first[number]], [rows]), f"after a reset of stream {number} alone, it is not as at first"

    def after_restore(self, other: Runner) -> None:
        """Go on in another runner from a snapshot made at any step: the same bits."""
        cut = int(self.rng.integers(1, self.steps))
        self.runner.reset()
        for number in range(cut):
            self.runner.step(*self._chunk(number))
        state = self.runner.snapshot()
        kept = [self._stepped(self.runner, number) for number in range(cut, self.steps)]
        other.restore(state)
        resumed = [self._stepped(other, number) for number in range(cut, self.steps)]
        assert _same(kept, resumed), f"from a snapshot after {cut} steps, the outputs are not the same bits"

    def _stepped(self, runner: Runner, number: int) -> Rows:
        return [output.copy() for output in runner.step(*self._chunk(number))]

    def _chunk(self, number: int) -> list[NDArray[Any]]:
        part = slice(number * self.spec.frames_per_step, (number + 1) * self.spec.frames_per_step)
        each = [[array[part] for array in lane] for lane in self.lanes]
        return each[0] if self.spec.batch == 1 else [np.stack(arrays) for arrays in zip(*each, strict=True)]


def _same(one: Sequence[Rows], other: Sequence[Rows]) -> bool:
    return all(
        np.array_equal(a, b) for rows, others in zip(one, other, strict=True) for a, b in zip(rows, others, strict=True)
    )
