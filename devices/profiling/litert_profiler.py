"""A fresh process: LiteRT's own profiler, through the C interface of the library that its Python package carries.

The package's Python classes give no way to it, but its `libLiteRt.so` exports `LiteRtCompiledModelGetProfiler`. Its
events come from XNNPACK itself, one for each of its operators. Run by `operators.py` as
`python -m edgernn.devices.profiling.litert_profiler MODEL THREADS INPUTS`, for another version of the library may have
other functions: then this process ends badly, and no other.
"""

from __future__ import annotations

import ctypes
import json
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

__all__ = ["main"]

WARM_UP, BATCHES, BATCH = 100, 40, 25  # steps; its buffer of events is emptied after each batch
CPU, WRITE = 1, 1  # kLiteRtHwAcceleratorCpu, kLiteRtTensorBufferLockModeWrite
OPERATOR, IN_DELEGATE, AS_OPERATOR = 2, 4, 8  # types of events: of the interpreter, and of what a delegate runs
EVENT = struct.Struct("@PiQQ")  # what all versions begin with: tag, type, start and elapsed time, µs
MOST_EVENT, UNTOUCHED = 512, b"\xab"  # bytes
RANKED_TYPE_BYTES = 1024  # more than it takes: it is only handed on
Pointer = ctypes.c_void_p


class _Library:
    """Calls that end the process where the library refuses one."""

    def __init__(self) -> None:
        package = find_spec("ai_edge_litert")
        if package is None or package.origin is None:
            sys.exit("ai-edge-litert is not installed")
        self._library = ctypes.CDLL(str(Path(package.origin).with_name("libLiteRt.so")))
        self._c = ctypes.CDLL(None)
        self._c.strdup.restype = Pointer

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function that returns whether it worked."""
        status = getattr(self._library, name)(*arguments)
        if status:
            sys.exit(f"{name} gave status {status}")

    def get(self, name: str, *arguments: Any) -> Pointer:
        """Return the handle that a function puts out last."""
        handle = Pointer()
        self.call(name, *arguments, ctypes.byref(handle))
        return handle

    def options(self, identifier: bytes, toml: bytes) -> Pointer:
        """Return options of one part of the library, which are text to it."""
        free = ctypes.cast(self._c.free, Pointer)
        return self.get("LiteRtCreateOpaqueOptions", identifier, Pointer(self._c.strdup(toml)), free)


class _Step:
    """The first signature of a model, compiled for the processor with the profiler in it."""

    def __init__(self, model_path: str, threads: int, inputs: dict[str, bytes]) -> None:
        self._library = library = _Library()
        self._environment = library.get("LiteRtCreateEnvironment", 0, None)
        self._model = library.get("LiteRtCreateModelFromFile", self._environment, model_path.encode())
        options = library.get("LiteRtCreateOptions")
        library.call("LiteRtSetOptionsHardwareAccelerators", options, CPU)
        for identifier, toml in (
            (b"runtime_options_string", "enable_profiling = true\n"),
            (b"xnnpack", f"num_threads = {threads}\n"),
        ):
            library.call("LiteRtAddOpaqueOptions", options, library.options(identifier, toml.encode()))
        self._compiled = library.get("LiteRtCreateCompiledModel", self._environment, self._model, options)
        self.profiler = library.get("LiteRtCompiledModelGetProfiler", self._compiled)
        self._signature = library.get("LiteRtGetModelSignature", self._model, ctypes.c_size_t(0))
        self._inputs, self._outputs = self._buffers("Input"), self._buffers("Output")
        self._fill(inputs)
        self._profiled: list[float] = []

    def run(self, count: int) -> None:
        """Take steps."""
        sizes = [ctypes.c_size_t(len(self._inputs)), ctypes.c_size_t(len(self._outputs))]
        arguments = (self._compiled, ctypes.c_size_t(0), sizes[0], self._inputs, sizes[1], self._outputs)
        for _ in range(count):
            self._library.call("LiteRtRunCompiledModel", *arguments)

    def events(self) -> Iterator[tuple[str, int, int]]:
        """Yield tag, type and microseconds of what was counted in a batch of steps."""
        for name in ("LiteRtResetProfiler", "LiteRtStartProfiler"):
            self._library.call(name, self.profiler)
        self._profiled.append(_timed(self.run))
        self._library.call("LiteRtStopProfiler", self.profiler)
        count = ctypes.c_int()
        self._library.call("LiteRtGetNumProfilerEvents", self.profiler, ctypes.byref(count))
        memory = ctypes.create_string_buffer(UNTOUCHED * (MOST_EVENT * count.value))
        self._library.call("LiteRtGetProfilerEvents", self.profiler, count, memory)
        raw = memory.raw[:-1]
        used = len(raw.rstrip(UNTOUCHED))
        size = -(-used // (8 * count.value)) * 8  # of one event, which is another in another version
        for index in range(count.value):
            tag, kind, _, elapsed_us = EVENT.unpack_from(raw, index * size)
            yield (ctypes.string_at(tag).decode(errors="replace"), kind, elapsed_us)

    def profiled_us(self) -> float:
        """Return what a step took while events were counted."""
        return median(self._profiled)

    def _buffers(self, side: str) -> Any:
        library, count = self._library, ctypes.c_size_t()
        library.call(f"LiteRtGetNumSignature{side}s", self._signature, ctypes.byref(count))
        made = []
        for index in map(ctypes.c_size_t, range(count.value)):
            tensor = library.get(f"LiteRtGetSignature{side}TensorByIndex", self._signature, index)
            ranked = ctypes.create_string_buffer(RANKED_TYPE_BYTES)
            library.call("LiteRtGetRankedTensorType", tensor, ranked)
            needs = library.get(
                f"LiteRtGetCompiledModel{side}BufferRequirements", self._compiled, ctypes.c_size_t(0), index
            )
            made.append(
                library.get("LiteRtCreateManagedTensorBufferFromRequirements", self._environment, ranked, needs)
            )
        return (Pointer * len(made))(*made)

    def _fill(self, inputs: dict[str, bytes]) -> None:
        library = self._library
        for index, buffer in enumerate(map(Pointer, self._inputs)):
            name = library.get("LiteRtGetSignatureInputName", self._signature, ctypes.c_size_t(index))
            content = inputs[ctypes.string_at(name).decode()]
            address = Pointer()
            library.call("LiteRtLockTensorBuffer", buffer, ctypes.byref(address), WRITE)
            ctypes.memmove(address, content, len(content))
            library.call("LiteRtUnlockTensorBuffer", buffer)


def main() -> None:
    """Measure, and print one line: microseconds of a step with the profiler at rest, and of each kind of operator.

    Of batches the median counts: one that another process interrupts would be most of a mean.
    """
    path, threads, examples = sys.argv[1:]
    with np.load(examples) as arrays:
        step = _Step(path, int(threads), {name: arrays[name].tobytes() for name in arrays.files})
    step.run(WARM_UP)
    at_rest = median(_timed(step.run) for _ in range(BATCHES))
    batches = [_batch(step) for _ in range(BATCHES)]
    kinds = {tag: (nodes, median(found[tag][1] for found in batches)) for tag, (nodes, _) in batches[0].items()}
    print(json.dumps({"step_us": at_rest, "profiled_us": step.profiled_us(), "kinds": kinds}))


def _timed(run: Callable[[int], None]) -> float:
    """Return the microseconds of a step in a batch of them."""
    before = time.perf_counter()
    run(BATCH)
    return (time.perf_counter() - before) / BATCH * 1e6


def _batch(step: _Step) -> dict[str, tuple[int, float]]:
    """Return how often each kind of operator runs in a step, and its microseconds in one, by a batch of steps."""
    counts: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for tag, kind, us in step.events():
        if kind in (OPERATOR, IN_DELEGATE, AS_OPERATOR):
            counts[tag] += 1
            times[tag] += us
    return {tag: (count // BATCH, times[tag] / BATCH) for tag, count in counts.items()}


if __name__ == "__main__":
    main()
