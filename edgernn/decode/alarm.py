"""Alarms of sensors: one value of a model, or how far it is from its input, beyond a threshold for long enough."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import ArtifactError, ShapeError, UsageError
from edgernn.events import Alarm
from edgernn.spec import StreamSpec

__all__ = ["DISTANCE", "AlarmDecoder", "AlarmSpec", "Distance", "OneElement", "open_scorer"]

DISTANCE = "distance"
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class AlarmSpec:
    """When a value is an alarm; raises `UsageError` where the numbers make no sense.

    >>> AlarmSpec(threshold=0.5).release_at
    0.5
    """

    threshold: float
    """At this value or beyond, it counts as passed."""
    watch: str = DISTANCE
    """"distance": root mean square of the differences between output and input, as of an autoencoder; or a label of the
    artifact; or an output's name, with the element where it has several: "y[3]"."""
    release: float | None = None
    """Once passed, it counts as passed until the value is back behind this one: hysteresis (default: the threshold)."""
    below: bool = False
    """The alarm is for values below the threshold, not above."""
    duration_ms: float = 0.0
    """How long it must have been passed."""
    refractory_ms: float = 10_000.0
    """Time after an alarm without another one; and none comes before the value was back."""
    name: str = ""
    """What the event is called; by default what is watched."""

    def __post_init__(self) -> None:
        for field in ("threshold", "release"):
            value = getattr(self, field)
            if value is not None and not math.isfinite(value):
                raise UsageError(f"the {field} of an alarm must be a number, not {value}")
        for field in ("duration_ms", "refractory_ms"):
            if not 0 <= getattr(self, field) < math.inf:
                raise UsageError(f"the {field} of an alarm must be zero or more, not {getattr(self, field)}")
        if (self.release_at < self.threshold) if self.below else (self.release_at > self.threshold):
            where = "below" if self.below else "above"
            raise UsageError(
                f"an alarm {where} {self.threshold:g} cannot be released at {self.release_at:g}, beyond it"
            )

    @property
    def release_at(self) -> float:
        """Where it counts as back."""
        return self.threshold if self.release is None else self.release

    @property
    def label(self) -> str:
        """What the event is called."""
        return self.name or self.watch

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, as they stand in a manifest."""
        return {"kind": "alarm", **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AlarmSpec:
        """Read what `to_dict` wrote, defaults for missing keys; raise `ArtifactError` if it does not fit."""
        given = {name: value for name, value in values.items() if name != "kind"}
        kinds = {field.name: field.type for field in fields(cls)}
        if unknown := sorted(set(given) - set(kinds)):
            raise ArtifactError(
                f"the decoder 'alarm' has unknown keys: {', '.join(unknown)}; it has {', '.join(kinds)}"
            )
        if "threshold" not in given:
            raise ArtifactError("the decoder 'alarm' lacks its threshold")
        for name, value in given.items():
            kind = {"str": str, "bool": bool}.get(str(kinds[name]), (int, float))
            missing = value is None and name == "release"
            if not missing and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
                raise ArtifactError(f"the decoder 'alarm' has {name} = {value!r}, expected {kinds[name]}")
        try:
            return cls(**given)
        except UsageError as error:
            raise ArtifactError(f"the decoder is malformed: {error}") from error


class AlarmDecoder:
    """Finds alarms in a stream of values. Not for several threads at once.

    An alarm is given at the first step where the value has been beyond the threshold for `duration_ms`, which counts on
    while it is not back behind `release`; the next one only once it was back, and `refractory_ms` have passed.
    """

    def __init__(self, spec: AlarmSpec, step_seconds: float) -> None:
        if not step_seconds > 0:
            raise UsageError(f"a step must last more than zero seconds, not {step_seconds}")
        self.spec = spec
        self.labels = (spec.label,)
        self.step_seconds = step_seconds
        self._sign = -1.0 if spec.below else 1.0
        self._duration = max(1, math.ceil(spec.duration_ms / 1000 / step_seconds - 1e-9))
        self._refractory = spec.refractory_ms / 1000 / step_seconds
        self.reset()

    @property
    def averages(self) -> NDArray[np.float32]:
        """The latest value, as an array `(1,)`, for whoever looks on."""
        return np.array([self._value if math.isfinite(self._value) else 0.0], np.float32)

    @property
    def thresholds(self) -> dict[str, float]:
        """The threshold by name."""
        return {self.spec.label: self.spec.threshold}

    def reset(self) -> None:
        """Forget the stream; the next step is its first."""
        self._steps = 0
        self._value = 0.0
        self._since: int | None = None  # the step at which it passed the threshold
        self._told = False  # since then
        self._told_at = -math.inf

    def push(self, scores: NDArray[np.floating[Any]]) -> Alarm | None:
        """Take the value `(1,)` of one step; return the alarm that was decided, if any.

        Raises `ShapeError` for another shape.
        """
        if scores.shape != (1,):
            raise ShapeError(f"the decoder of an alarm takes one value a step, found an array of shape {scores.shape}")
        self._value = float(scores[0])
        value = self._value * self._sign
        self._steps += 1
        if self._since is None:
            if value >= self.spec.threshold * self._sign:
                self._since, self._told = self._steps - 1, False
        elif value < self.spec.release_at * self._sign:
            self._since = None
        if self._since is None or self._told or self._steps - self._since < self._duration:
            return None
        if self._steps - self._told_at < self._refractory:
            return None
        self._told, self._told_at = True, self._steps
        times = (round(step * self.step_seconds, 4) for step in (self._since, self._steps))
        score = max(-LARGEST, min(LARGEST, self._value))  # JSON knows no infinity
        return Alarm(self.spec.label, round(score, 4), *times)


def open_scorer(spec: AlarmSpec, stream: StreamSpec, labels: Sequence[str]) -> Distance | OneElement:
    """Return what makes the value of a step; raise `UsageError` if the model has nothing that is called so."""
    if spec.watch in labels:
        return OneElement(stream, 0, list(labels).index(spec.watch))
    if spec.watch == DISTANCE:
        return Distance(stream)
    found = re.fullmatch(r"(.+?)(?:\[(\d+)\])?", spec.watch)
    names = [tensor.name for tensor in stream.outputs]
    if found and found[1] in names:
        return OneElement(stream, names.index(found[1]), int(found[2] or 0), bool(found[2]))
    raise UsageError(f"the model has no '{spec.watch}' to watch; it has: {', '.join([*labels, *names, DISTANCE])}")


class OneElement:
    """A scorer: one element of an output."""

    def __init__(self, spec: StreamSpec, output: int, element: int, named: bool = True) -> None:
        tensor = spec.outputs[output]
        size = math.prod(tensor.shape[1 + (spec.output_kinds[output] == "frames") :])
        if element >= size or (size > 1 and not named):
            raise UsageError(
                f"the output '{tensor.name}' has {size} elements a frame: watch one of {tensor.name}[0] to "
                f"{tensor.name}[{size - 1}]"
            )
        self.output = output
        self.delay_rows = spec.output_delays[output]
        self._element, self._size = element, size

    def rows(self, frames: NDArray[np.float32], outputs: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the element, a row for each frame of the output."""
        return outputs[self.output].reshape(-1, self._size)[:, self._element, None]

    def reset(self) -> None:
        """Nothing is remembered."""


class Distance:
    """A scorer: how far the first output is from the input that it is the output for, its delay taken into account."""

    output = 0

    def __init__(self, spec: StreamSpec) -> None:
        self._frames = spec.output_kinds[0] == "frames"
        given, found = spec.inputs[0].shape[2:], spec.outputs[0].shape[1 + self._frames :]
        if given != found:
            raise UsageError(
                f"the distance from the input is of models whose output has the shape of the input: the input is "
                f"{given}, the output {found}; watch one of its elements"
            )
        self.delay_rows = spec.output_delays[0]
        self._size = math.prod(given)
        self.reset()

    def reset(self) -> None:
        """Forget the frames."""
        self._waiting = np.zeros((self.delay_rows, self._size), np.float32)

    def rows(self, frames: NDArray[np.float32], outputs: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return root mean squares, a row for each frame of the output."""
        taken = frames if self._frames else frames[-1:]
        known = np.concatenate([self._waiting, taken.reshape(-1, self._size)])
        found = outputs[0].reshape(-1, self._size)
        self._waiting = known[len(found) :]
        distances: NDArray[np.float32] = np.sqrt(np.mean(np.square(found - known[: len(found)]), 1, keepdims=True))
        return distances
