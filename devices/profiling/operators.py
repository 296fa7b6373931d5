"""What each kind of operator takes of a step, by the profilers of ONNX Runtime and of LiteRT."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.artifact import ModelFile
from edgernn.devices.run_onnx import open_session
from edgernn.measured import Operator
from edgernn.spec import TensorSpec
from edgernn.text import one_line

__all__ = ["read_events", "read_kinds", "time_operators"]

WARM_UP, STEPS = 50, 300  # its profiler stops at a million events
PATIENCE_S = 300.0
NO_PROFILER = "no time by operator: the Python package of tflite-runtime carries no profiler; LiteRT's does"

WHOLE = "operators: by ONNX Runtime's own profiler, which rounds each time down to whole microseconds"


def time_operators(model: ModelFile, runtime: str, threads: int = 1) -> tuple[tuple[Operator, ...], str]:
    """Return the kinds of operators, the slowest first, and what is to be known of them, or why there are none."""
    name, _, provider = runtime.partition(":")
    if name == "litert":
        return _litert(model, threads)
    if name != "onnxruntime":
        return (), NO_PROFILER
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(model, threads, provider or "cpu", Path(folder) / "steps")
        feed = _feed(model)
        for _ in range(WARM_UP + STEPS):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return read_events(events), WHOLE


def _litert(model: ModelFile, threads: int) -> tuple[tuple[Operator, ...], str]:
    with tempfile.TemporaryDirectory() as folder:
        inputs, feed = Path(folder) / "inputs.npz", _feed(model)
        np.savez(inputs, allow_pickle=False, **feed)
        command = [sys.executable, "-m", "edgernn.devices.profiling.litert_profiler"]
        command += [str(model.path), str(threads), str(inputs)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, errors="replace")
        except subprocess.TimeoutExpired:
            return (), f"no time by operator: LiteRT's profiler took longer than {PATIENCE_S:g} seconds"
    if done.returncode:
        said = one_line(done.stderr.strip().rpartition("\n")[2])
        return (), f"no time by operator: LiteRT's profiler failed (exit status {done.returncode}: {said})"
    return read_kinds(json.loads(done.stdout.splitlines()[-1]))


def read_kinds(found: Mapping[str, Any]) -> tuple[tuple[Operator, ...], str]:
    """Read what `litert_profiler.py` printed; its clock leaves out the part of a microsecond."""
    total = sum(us for _, us in found["kinds"].values())
    operators = [
        Operator(kind, nodes, round(us, 2), round(us / total, 4) if total else 0.0)
        for kind, (nodes, us) in found["kinds"].items()
    ]
    remark = (
        "operators: by LiteRT's own profiler, which rounds each time down to whole microseconds: "
        f"{total:.1f} µs are told of a step of {found['profiled_us']:.1f} µs ({found['step_us']:.1f} µs without it)"
    )
    return tuple(sorted(operators, key=lambda item: (-item.us, item.kind))), remark


def _feed(model: ModelFile) -> dict[str, NDArray[Any]]:
    """Return an example of each input and the initial states, as the file stores them."""
    rng, spec = np.random.default_rng(0), model.spec
    feed = {tensor.name: _example(tensor, rng) for tensor in spec.inputs}
    return feed | {state.input: state.initial_array() for state in spec.states}


def _example(tensor: TensorSpec, rng: np.random.Generator) -> NDArray[Any]:
    real = tensor.example(rng)
    stored = tensor.quant.quantize(real, tensor.dtype) if tensor.quant else real.astype(tensor.dtype)
    return stored.reshape(tensor.shape)


def read_events(events: Iterable[Mapping[str, Any]], warm_up: int = WARM_UP) -> tuple[Operator, ...]:
    """Sum up what ONNX Runtime's profiler wrote, without each node's first runs (whole microseconds)."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"], event["name"]].append(event["dur"])
    kinds: dict[str, list[float]] = defaultdict(list)
    for (kind, _), durations in times.items():
        kinds[kind].append(_typical(durations[warm_up:]))
    total = sum(map(sum, kinds.values())) or 1.0
    found = [Operator(kind, len(us), round(sum(us), 2), round(sum(us) / total, 4)) for kind, us in kinds.items()]
    return tuple(sorted(found, key=lambda item: -item.us))


def _typical(durations: Sequence[float]) -> float:
    """Return the mean without the highest twentieth, in which a step was interrupted; whole numbers need a mean."""
    kept = sorted(durations)[: math.ceil(len(durations) * 19 / 20)]
    return float(np.mean(kept)) if kept else 0.0
