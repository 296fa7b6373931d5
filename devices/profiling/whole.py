"""Everything that `edgernn profile` measures of one artifact in one runtime, and what is needed to repeat it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edgernn.artifact import MANIFEST, Artifact, ModelFile
from edgernn.devices.measure import Times, begin_example, measure, period_of
from edgernn.devices.profiling.conditions import Background
from edgernn.devices.profiling.operators import time_operators
from edgernn.devices.profiling.rounds import Case, run_rounds
from edgernn.devices.profiling.sustain import sustain
from edgernn.devices.runner import find_runtime, open_model, runtime_for
from edgernn.measured import Sustained
from edgernn.profile import Profile

__all__ = ["Wanted", "facts_of", "measure_whole"]

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Wanted:
    """What is to be measured."""

    steps: int = 10_000
    seconds: float = 10.0
    rounds: int = 5
    operators: bool = False
    sustain_s: float = 0.0
    pinned: int | None = None
    """Where `pin` has put the process."""
    command: tuple[str, ...] = ()


def measure_whole(
    artifact: Artifact, runtime: str | None, threads: int, wanted: Wanted, progress: Progress
) -> tuple[Profile, Times]:
    """Measure in this process, then in fresh ones, then for as long as is wanted."""
    background = Background(wanted.pinned)
    profile, times = measure(artifact, runtime, threads, wanted.steps, wanted.seconds, progress)
    name = runtime_for(runtime, artifact.programs.get("step", {}))
    model = artifact.model(find_runtime(name).format)
    share = max(500, wanted.steps // max(1, wanted.rounds))
    (rounds,) = run_rounds([Case(artifact.path, name, threads)], wanted.rounds, share, progress)
    operators, remark = time_operators(model, name, threads) if wanted.operators else ((), "")
    sustained = None
    if wanted.sustain_s:
        sustained = _sustain(artifact, model, name, threads, wanted.sustain_s, progress)
    return replace(
        profile,
        **facts_of(artifact, model, name),
        command=wanted.command,
        rounds=rounds,
        operators=operators,
        remarks=(remark,) if remark else (),
        sustained=sustained,
        conditions=background.conditions(),
    ), times


def facts_of(artifact: Artifact, model: ModelFile, runtime: str) -> dict[str, Any]:
    """Return what the artifact says of itself, and the packages that run it."""
    parity = artifact.parity.get(model.format, {})
    ratios = [output["snr_db"] for output in parity.get("outputs", ()) if output.get("snr_db") is not None]
    return {
        "packages": {name: _version(name) for name in ("numpy", find_runtime(runtime).package)},
        "manifest": hashlib.sha256((artifact.path / MANIFEST).read_bytes()).hexdigest(),
        "model_bytes": model.nbytes,
        "snr_db": min(ratios, default=None),
        "accuracy": parity.get("accuracy", {}).get("artifact"),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _sustain(
    artifact: Artifact, model: ModelFile, runtime: str, threads: int, seconds: float, progress: Progress
) -> Sustained:
    runner = open_model(model, runtime, threads)
    frames = begin_example(runner)
    result = sustain(
        lambda index: runner.step(*frames[index % len(frames)]), seconds, period_of(artifact, runner), progress
    )
    runner.close()
    return result
