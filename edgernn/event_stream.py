"""Samples or frames to events: the steps, the warm-up, the times of events, and what is counted."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import StepError, UsageError
from edgernn.events import Event
from edgernn.frontend import FrontEnd, PlainSamples
from edgernn.stream import Decoder, Runner, Scorer

__all__ = ["EventStream", "Stream"]


class EventStream(ABC):
    """Samples or frames to events: the steps, the warm-up, the events' times, and what is counted.

    Not for several threads at once.
    """

    def __init__(
        self,
        runner: Runner,
        decoder: Decoder,
        rate_hz: float,
        features: tuple[int, ...],
        rows_per_frame: int = 1,
        scorer: Scorer | None = None,
    ) -> None:
        """Take what is common; without a `scorer`, the decoder gets the first output."""
        self.runner = runner
        self.decoder = decoder
        self.rate_hz = rate_hz
        """Samples or frames a second of what is pushed."""
        self.step_us: deque[float] = deque(maxlen=10_000)
        """How long the latest steps took, in microseconds."""
        self.samples = self.lost = self.frames = self.steps = self.events = self.resets = 0
        self.dropped: Counter[str] = Counter()
        """Frames by what was wrong with them: those with a value that is none, "held" or, in a row, "skipped"."""
        self._frames_per_step = runner.spec.frames_per_step
        self._rows = 0
        self._rows_per_frame = rows_per_frame
        self._scorer = scorer or _FirstOutput(runner)
        self._waiting = np.zeros((0, *features), np.float32)
        self._clock_samples = self._start_samples = self._to_drop = 0

    @property
    def clock_samples(self) -> int:
        """Where in the stream it is, samples, with those that were lost."""
        return self._clock_samples

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one of the frames that are pushed; `()` for samples of sound."""
        return ()

    @property
    def step_samples(self) -> int:
        """Samples or frames from one step to the next."""
        return self._frames_per_step

    @property
    def first_samples(self) -> int:
        """Samples or frames that the first step takes."""
        return self._frames_per_step

    @property
    def quiet_samples(self) -> int:
        """Samples or frames from here to where an event can be decided at the earliest; 0 where nothing is known."""
        return round(getattr(self.decoder, "quiet_s", 0.0) * self.rate_hz)

    def reset(self, clock_samples: int = 0) -> None:
        """Forget all so far and set the clock; what was counted stays counted."""
        self._clock_samples = clock_samples
        self._restart()

    @abstractmethod
    def push(self, samples: NDArray[np.floating[Any]], lost: int = 0) -> list[Event]:
        """Take samples or frames, of which `lost` are missing just before; return what was decided.

        Raises `StepError` where a step fails, or gives NaN: the stream must be `reset` then.
        """

    def _restart(self) -> None:
        self.runner.reset()
        self.decoder.reset()
        self._waiting = self._waiting[:0]
        self._start_samples = self._clock_samples
        self._scorer.reset()
        self._to_drop = self._scorer.delay_rows

    def _step_through(self, frames: NDArray[np.float32]) -> list[Event]:
        self._rows += len(frames)
        self.frames = self._rows // self._rows_per_frame
        if len(self._waiting):
            frames = np.concatenate([self._waiting, frames])
        size, events = self._frames_per_step, []
        steps = len(frames) // size
        for start in range(0, steps * size, size):
            before = time.perf_counter()
            outputs = self.runner.step(frames[start : start + size])
            self.step_us.append((time.perf_counter() - before) * 1e6)
            for row in self._scorer.rows(frames[start : start + size], outputs):
                event = self._decode(row)
                if event is not None:
                    events.append(event)
        self.steps += steps
        self._waiting = frames[steps * size :]
        return events

    def _decode(self, row: NDArray[np.float32]) -> Event | None:
        if self._to_drop:  # the warm-up, so that the decoder's steps are the source model's
            self._to_drop -= 1
            return None
        if isnan(row.dot(row)):  # once in a state, it is there for ever, and nothing would ever be decided
            raise StepError("the model gave NaN, which its state may keep: the stream must be reset")
        event = self.decoder.push(row)
        if event is None:
            return None
        self.events += 1
        offset = self._start_samples / self.rate_hz
        return replace(event, start_s=round(event.start_s + offset, 4), end_s=round(event.end_s + offset, 4))


class _FirstOutput:
    """A scorer: the first output as it is."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    @property
    def delay_rows(self) -> int:
        return self._runner.spec.output_delays[0]

    def rows(self, frames: NDArray[np.float32], outputs: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        return outputs[0].reshape(-1, outputs[0].shape[-1])

    def reset(self) -> None:
        """Nothing is remembered."""


class Stream(EventStream):
    """Samples in any cut to events: front end, steps and decoder. Not for several threads at once.

    A gap of lost samples up to `LONGEST_PATCH_S` is filled with zeros, which a recurrent network forgets soon.
    After a longer one everything is reset, since the states are about sound of long ago. Event times count the
    gap either way, so that they stay true to the clock on the wall.
    """

    LONGEST_PATCH_S = 0.1

    def __init__(
        self, front_end: FrontEnd | PlainSamples, runner: Runner, decoder: Decoder, scorer: Scorer | None = None
    ) -> None:
        spec = runner.spec
        if spec.batch != 1:
            raise UsageError(
                f"the model takes {spec.batch} streams at once, and this is one: convert it with --batch 1, or give "
                "its frames to edgernn.stream.FrameBatch"
            )
        features = (front_end.params.bands,) if isinstance(front_end, FrontEnd) else ()
        if len(spec.inputs) != 1 or spec.inputs[0].shape[2:] != features:
            found = ", ".join(f"{tensor.name} {tensor.shape}" for tensor in spec.inputs)
            given = f"the front end gives {features[0]} features a frame" if features else "what comes is samples"
            raise UsageError(f"{given}, and the model takes {found}")
        rows_per_frame = round(front_end.rows_hz / front_end.params.frame_rate_hz)
        super().__init__(runner, decoder, front_end.params.rate_hz, features, rows_per_frame, scorer)
        self.front_end = front_end
        self.reset()

    @property
    def step_samples(self) -> int:
        """Samples from one step to the next."""
        hop = self.front_end.params.hop_samples if isinstance(self.front_end, FrontEnd) else 1
        return hop * self._frames_per_step

    @property
    def first_samples(self) -> int:
        """Samples that the first step takes: those of a window more than later ones."""
        if isinstance(self.front_end, FrontEnd):
            return self.front_end.params.sample_count(self._frames_per_step)
        return self._frames_per_step

    def _restart(self) -> None:
        self.front_end.reset()
        super()._restart()

    def push(self, samples: NDArray[np.floating[Any]], lost: int = 0) -> list[Event]:
        """Take samples `(n,)`, full scale at ±1, of which `lost` are missing just before; return what was decided.

        Raises `ShapeError` for another shape and for NaN.
        """
        events = self._bridge(lost) if lost else []
        frames = self.front_end.push(samples)
        self.samples += len(samples)
        self._clock_samples += len(samples)
        return events + self._step_through(frames)

    def _bridge(self, lost: int) -> list[Event]:
        self.lost += lost
        self._clock_samples += lost
        if lost <= self.LONGEST_PATCH_S * self.rate_hz:
            return self._step_through(self.front_end.push(np.zeros(lost, np.float32)))
        self._restart()
        self.resets += 1
        return []
