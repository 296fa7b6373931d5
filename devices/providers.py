"""What else than the processor ONNX Runtime computes on: the GPU of a Jetson, through CUDA or TensorRT.

Written against ONNX Runtime's documentation of its execution providers; not run on hardware. Results are those of
another kind of machine: the drift certificate says how far they may be from the golden ones.

A step of a few microseconds is faster on the processor than the way to a GPU and back takes, so nothing is chosen for
being there: `fastest` measures.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgernn.artifact import ModelFile
from edgernn.errors import EdgeRNNError, UsageError
from edgernn.text import one_line

__all__ = [
    "PROVIDERS",
    "check_provider",
    "describe_placement",
    "fastest",
    "place_in_cache",
    "placement",
    "provider_list",
    "time_step",
]

CPU = "CPUExecutionProvider"
PROVIDERS = {
    "cpu": (CPU,),
    "cuda": ("CUDAExecutionProvider", CPU),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", CPU),  # each takes what those before leave
}
WARM_UP, STEPS = 20, 200


def provider_list(provider: str, model: ModelFile) -> list[tuple[str, dict[str, Any]]]:
    """Return the providers of a session and their options, first the one that is asked first.

    float32 stays float32: TF32 and half precision would leave the bounds that the artifact was proven with.
    """
    options: dict[str, dict[str, Any]] = {
        "CUDAExecutionProvider": {"device_id": 0, "arena_extend_strategy": "kSameAsRequested", "use_tf32": 0},
    }
    if provider == "tensorrt":
        cache = str(place_in_cache(model))
        options["TensorrtExecutionProvider"] = {
            "device_id": 0,
            "trt_fp16_enable": False,
            "trt_engine_cache_enable": True,  # building an engine takes seconds to minutes
            "trt_engine_cache_path": cache,
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": cache,
        }
    return [(name, options.get(name, {})) for name in PROVIDERS[provider]]


def place_in_cache(model: ModelFile) -> Path:
    """Return the folder for what is built of a model, one for each content: an engine of another one is of no use."""
    folders = (os.environ.get(name, "").split(":")[0] for name in ("CACHE_DIRECTORY", "STATE_DIRECTORY"))  # systemd's
    base = next(filter(None, folders), None) or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    digest = hashlib.sha256(model.path.read_bytes()).hexdigest()[:16]
    folder = Path(base).expanduser() / "edgernn" / "tensorrt" / digest
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the engine cache {folder} cannot be made: {error.strerror}; set XDG_CACHE_HOME") from error
    return folder


def check_provider(provider: str, available: Iterable[str], package: str) -> None:
    """Raise `UsageError` for one that this build of ONNX Runtime does not have."""
    if provider not in PROVIDERS:
        raise UsageError(f"there is no provider '{provider}'; the providers are: {', '.join(PROVIDERS)}")
    if PROVIDERS[provider][0] not in available:
        has = ", ".join(name for name, wanted in PROVIDERS.items() if wanted[0] in available)
        raise UsageError(
            f"{package} has no provider {provider}, it has: {has}; on a Jetson, install the onnxruntime-gpu that is "
            "built for its JetPack (devices/jetson.md), or leave --provider out"
        )


def fastest(model: ModelFile, threads: int = 1) -> tuple[str, dict[str, float | str]]:
    """Return the provider that takes the least time for a step here, and for each its median in µs, or why not."""
    from edgernn.devices.run_onnx import open_onnxruntime

    found: dict[str, float | str] = {}
    for provider in PROVIDERS:
        try:
            runner = open_onnxruntime(model, threads, provider)
        except EdgeRNNError as error:
            found[provider] = one_line(error)
            continue
        try:
            found[provider] = time_step(runner)
        except EdgeRNNError as error:
            found[provider] = one_line(error)
        finally:
            runner.close()
    times = {name: value for name, value in found.items() if isinstance(value, float)}
    if not times:
        raise UsageError(f"no provider runs {model.path}: {found}")
    return min(times, key=lambda name: times[name]), found


def time_step(runner: Any) -> float:
    """Return the median time of a step, µs."""
    rng, times = np.random.default_rng(0), list[float]()
    runner.reset(context=runner.spec.example_context(rng))
    frames = tuple(tensor.example(rng) for tensor in runner.spec.inputs)
    for number in range(WARM_UP + STEPS):
        begin = time.perf_counter()
        runner.step(*frames)
        if number >= WARM_UP:
            times.append(time.perf_counter() - begin)
    runner.reset()
    return round(1e6 * float(np.median(times)), 2)


def placement(model: ModelFile, provider: str) -> dict[str, Counter[str]]:
    """Return which operators ran on which provider, by ONNX Runtime's own profile of one step."""
    from edgernn.devices.run_onnx import open_session

    with tempfile.TemporaryDirectory() as folder:
        session = open_session(model, 1, provider, profile=Path(folder, "step"))
        session.run(None, {node.name: _zeros(node) for node in session.get_inputs()})
        with Path(session.end_profiling()).open(encoding="utf-8") as file:
            return _by_provider(json.load(file))


def describe_placement(placed: Mapping[str, Counter[str]]) -> str:
    """Return in words what ran where, and what of it fell back to the processor.

    >>> placed = {"CUDAExecutionProvider": Counter(MatMul=4), "CPUExecutionProvider": Counter(Split=2)}
    >>> print(describe_placement(placed))
    4 operators ran on CUDA: MatMul × 4
    2 operators ran on CPU: Split × 2
    """
    lines = (
        f"{sum(kinds.values())} operators ran on {provider.removesuffix('ExecutionProvider')}: "
        + ", ".join(f"{kind} × {count}" for kind, count in kinds.most_common())
        for provider, kinds in placed.items()
    )
    return "\n".join(lines)


def _zeros(node: Any) -> Any:
    from edgernn.devices.run_onnx import DTYPES

    return np.zeros(node.shape, DTYPES[node.type])


def _by_provider(events: Iterable[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """Count the operators of a profile.

    >>> args = {"provider": "CPUExecutionProvider", "op_name": "Add"}
    >>> _by_provider([{"cat": "Node", "name": "a_kernel_time", "args": args}, {"cat": "Session", "name": "model_run"}])
    {'CPUExecutionProvider': Counter({'Add': 1})}
    """
    found: dict[str, Counter[str]] = {}
    for event in events:
        args = event.get("args", {})
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time") and "provider" in args:
            found.setdefault(args["provider"], Counter())[args.get("op_name", "?")] += 1
    return found
