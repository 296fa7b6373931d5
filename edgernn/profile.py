"""What was measured of an artifact on a machine: a value, to and from JSON, and as text for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import FailureError
from edgernn.measured import Conditions, Minute, Operator, Round, Sustained
from edgernn.text import one_line, table

__all__ = ["Machine", "Profile", "Timing"]

QUANTILES = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99, "p999_us": 0.999}


@dataclass(frozen=True)
class Timing:
    """How long something took, over many times; microseconds."""

    name: str
    count: int
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float
    mean_us: float

    @classmethod
    def of(cls, name: str, times_us: Sequence[float] | NDArray[np.float64]) -> Timing:
        """Summarize at least one time. A quantile is the smallest time that so large a share does not exceed.

        >>> Timing.of("step", [1.0, 2.0, 3.0, 40.0]).p50_us
        2.0
        """
        ordered = np.sort(np.asarray(times_us, np.float64))
        ranks = {key: int(np.ceil(share * len(ordered))) - 1 for key, share in QUANTILES.items()}
        quantiles = {key: round(float(ordered[rank]), 3) for key, rank in ranks.items()}
        return cls(
            name,
            len(ordered),
            **quantiles,
            max_us=round(float(ordered[-1]), 3),
            mean_us=round(float(ordered.mean()), 3),
        )


@dataclass(frozen=True)
class Machine:
    """Where it was measured."""

    board: str
    """As the device tree names it; empty where there is none."""
    cpu: str
    cores: int
    """Those that the process may use."""
    architecture: str
    system: str
    python: str
    governor: str = ""
    """Of the CPU clock; empty where it cannot be read."""
    temperature_c: float | None = None
    """Before the measurement."""


@dataclass(frozen=True)
class Profile:
    """One measurement, with everything needed to repeat it."""

    artifact: str
    digest: str
    """SHA-256 of the model file."""
    format: str
    scheme: str
    runtime: str
    threads: int
    machine: Machine
    measured_at: str
    """UTC, ISO 8601."""
    edgernn: str
    """Version."""
    timings: tuple[Timing, ...]
    period_us: float | None
    """Real time from one step to the next; None where the artifact does not tell its frame rate."""
    deadline_misses: int
    """Steps at the stream's own pace that ended later than the next one was due."""
    import_ms: float
    """Importing the runtime."""
    open_ms: float
    """Opening the model in it."""
    first_step_us: float
    resident_bytes: int
    """Of the whole process, at the end."""
    runtime_bytes: int
    """By how much the process grew with runtime and model."""
    on: str = ""
    """Which board it was, where that was reached over SSH; empty for the machine itself."""
    command: tuple[str, ...] = ()
    """What repeats it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the command does not say: numbers of steps and processes, warm-up, the seed of the frames."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Versions of what took part."""
    manifest: str = ""
    """SHA-256 of the artifact's manifest, which names every file's."""
    model_bytes: int = 0
    snr_db: float | None = None
    """Of the worst output against the source, as the artifact's manifest has it."""
    accuracy: float | None = None
    """On its dev set, as the manifest has it."""
    conditions: Conditions = field(default_factory=Conditions)
    rounds: tuple[Round, ...] = ()
    operators: tuple[Operator, ...] = ()
    remarks: tuple[str, ...] = ()
    """What was asked for and could not be measured, and why."""
    sustained: Sustained | None = None

    def timing(self, name: str) -> Timing | None:
        """Return the timing with that name, if it was measured."""
        return next((timing for timing in self.timings if timing.name == name), None)

    @property
    def deadline_misses_per_million(self) -> float | None:
        """Share of the paced steps, in parts per million; None if none was made."""
        paced = self.timing("step, paced")
        return None if paced is None else 1e6 * self.deadline_misses / paced.count

    @property
    def real_time_factor(self) -> float | None:
        """Mean time that a step and its share of the front end take, by the time they stand for."""
        step, front_end = self.timing("step"), self.timing("front end")
        if self.period_us is None or step is None:
            return None
        return (step.mean_us + (front_end.mean_us if front_end else 0.0)) / self.period_us

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; what is derived is there for readers, and ignored by `from_dict`."""
        derived = {
            "deadline_misses_per_million": self.deadline_misses_per_million,
            "real_time_factor": self.real_time_factor,
        }
        return {**asdict(self), **derived}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Profile:
        """Read what `to_dict` wrote; raise `FailureError` where it does not fit."""
        try:
            kept = {key: value for key, value in values.items() if key in cls.__dataclass_fields__}
            return cls(**{**kept, **{name: read(kept[name]) for name, read in _PARTS.items() if name in kept}})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            lacks = [one.name for one in fields(cls) if one.default is one.default_factory is MISSING]
            lacks = [name for name in lacks if name not in values] if isinstance(values, Mapping) else []
            why = f"it has no {lacks[0]}" if lacks else one_line(error)
            raise FailureError(f"this is not a profile that edgernn wrote: {why}") from error

    def __str__(self) -> str:
        """Return tables for people."""
        times = [
            (t.name, t.count, *(f"{value:.1f}" for value in (t.p50_us, t.p90_us, t.p99_us, t.p999_us, t.max_us)))
            for t in self.timings
        ]
        header = ["µs", "count", "p50", "p90", "p99", "p99.9", "max"]
        width = max(len(name) for name, _ in self._facts())
        facts = "\n".join(f"{name:<{width}}  {value}" for name, value in self._facts())
        return f"{facts}\n\n{table(header, times)}"

    def _facts(self) -> list[tuple[str, str]]:
        machine, misses, factor = self.machine, self.deadline_misses_per_million, self.real_time_factor
        board = f"{machine.board}, " if machine.board else ""
        pace = "unknown" if self.period_us is None else f"one every {self.period_us / 1000:g} ms"
        return [
            ("artifact", f"{self.artifact} ({self.format}, {self.scheme})"),
            ("runtime", f"{self.runtime}, {self.threads} thread{'s' * (self.threads > 1)}"),
            (
                "machine",
                f"{board}{machine.cpu}, {machine.cores} core{'s' * (machine.cores > 1)}, {machine.architecture}",
            ),
            ("system", f"{machine.system}, Python {machine.python}"),
            ("steps", pace),
            ("real-time factor", "–" if factor is None else f"{factor:.5f}"),
            ("deadline misses", "–" if misses is None else f"{self.deadline_misses} ({misses:.0f} per million)"),
            ("start-up", self._start_up()),
            ("memory", f"{_mb(self.resident_bytes)} resident, {_mb(self.runtime_bytes)} of it runtime and model"),
        ]

    def _start_up(self) -> str:
        return f"import {self.import_ms:.0f} ms, open {self.open_ms:.1f} ms, first step {self.first_step_us:.0f} µs"


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _sustained(values: Mapping[str, Any] | None) -> Sustained | None:
    if values is None:
        return None
    return Sustained(**{**values, "minutes": tuple(Minute(**minute) for minute in values["minutes"])})


def _round(values: Mapping[str, Any]) -> Round:
    return Round(**{**values, "p50_us": tuple(values["p50_us"]), "p99_us": tuple(values["p99_us"])})


_PARTS: Mapping[str, Callable[[Any], Any]] = {
    "machine": lambda values: Machine(**values),
    "timings": lambda rows: tuple(Timing(**row) for row in rows),
    "command": tuple,
    "conditions": lambda values: Conditions(**{**values, "governors": tuple(values.get("governors", ()))}),
    "rounds": lambda rows: tuple(map(_round, rows)),
    "operators": lambda rows: tuple(Operator(**row) for row in rows),
    "remarks": tuple,
    "sustained": _sustained,
}
"""Field to how it is read from plain JSON values."""
