"""Everything that `edgernn profile` measures of one artifact in one runtime, and what is needed to repeat it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edgernn.artifact import MANIFEST, Artifact, ModelFile
from edgernn.devices.measure import (
    DIFFERENT_FRAMES,
    SEED,
    WARM_UP_STEPS,
    Times,
    begin_example,
    measure,
    period_of,
)
from edgernn.devices.profiling.conditions import Background
from edgernn.devices.profiling.operators import time_operators
from edgernn.devices.profiling.rounds import Case, run_rounds
from edgernn.devices.profiling.sustain import sustain
from edgernn.devices.runner import find_runtime, open_model, runtime_for
from edgernn.measured import Sustained
from edgernn.profile import Profile

__all__ = ["Wanted", "facts_of", "measure_whole", "settings_of", "steps_of_a_round"]

ENVIRONMENT = ("OMP_", "ORT_", "XNNPACK_", "MALLOC_", "LD_PRELOAD", "PYTHON", "CUDA_VISIBLE")
"""Variables that change how fast something runs begin like these."""
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
    cases = [Case(artifact.path, name, threads)]
    (rounds,) = run_rounds(cases, wanted.rounds, steps_of_a_round(wanted), progress)
    operators, remark = time_operators(model, name, threads) if wanted.operators else ((), "")
    sustained = None
    if wanted.sustain_s:
        sustained = _sustain(artifact, model, name, threads, wanted.sustain_s, progress)
    return replace(
        profile,
        **facts_of(artifact, model, name),
        command=wanted.command,
        settings=settings_of(wanted),
        rounds=rounds,
        operators=operators,
        remarks=(remark,) if remark else (),
        sustained=sustained,
        conditions=background.conditions(),
    ), times


def steps_of_a_round(wanted: Wanted) -> int:
    """Return how many steps a fresh process takes, so that all of them take about as many as are wanted."""
    return max(500, wanted.steps // max(1, wanted.rounds))


def settings_of(wanted: Wanted) -> dict[str, Any]:
    """Return what decides a measurement beside the artifact, the runtime and the machine."""
    return {
        "seed": SEED,
        "different_frames": DIFFERENT_FRAMES,
        "warm_up_steps": WARM_UP_STEPS,
        "steps": wanted.steps,
        "paced_seconds": wanted.seconds,
        "rounds": wanted.rounds,
        "steps_a_round": steps_of_a_round(wanted),
        "sustain_seconds": wanted.sustain_s,
        "environment": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(ENVIRONMENT)},
    }


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
