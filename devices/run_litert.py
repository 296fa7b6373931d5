"""Steps in LiteRT and in tflite-runtime, its predecessor: one code, another import.

What the usual way costs is `set_tensor` and `get_tensor`: for two LSTM layers four to eight times the kernels' own
time. Here the interpreter's memory is written and read in place.
"""

from __future__ import annotations

import ctypes
import math
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.artifact import ModelFile
from edgernn.devices.carry import overlap, plan_copies
from edgernn.devices.contexts import ContextKeeper
from edgernn.devices.ports import not_arrays, reader, writer, wrong_number
from edgernn.devices.states import StatefulRunner, StateKeeper
from edgernn.errors import ArtifactError, MissingDependencyError, StepError, UsageError
from edgernn.quiet import quiet_stderr
from edgernn.spec import RESET, RESTORE, SNAPSHOT, STEPS, STREAMS, QuantParams, StateSpec, StreamSpec, TensorSpec
from edgernn.stream import Runner, State

__all__ = ["LiteRTRunner", "VariablesRunner", "open_litert", "open_tflite_runtime"]


def open_litert(model: ModelFile, threads: int = 1) -> Runner:
    """Open a TFLite file in LiteRT; raises `ArtifactError` if it is corrupt or not what its spec says."""
    return _open(model, threads, "ai_edge_litert.interpreter", "ai-edge-litert", "litert")


def open_tflite_runtime(model: ModelFile, threads: int = 1) -> Runner:
    """Open a TFLite file in tflite-runtime; raises `ArtifactError` if it is corrupt or not what its spec says."""
    if int(np.__version__.partition(".")[0]) >= 2:  # it was built for NumPy 1, and fails with words about an array API
        raise UsageError(
            f"tflite-runtime needs NumPy below 2, found {np.__version__}: pip install 'edgernn[tflite]', "
            "or choose --runtime litert"
        )
    return _open(model, threads, "tflite_runtime.interpreter", "tflite-runtime", "tflite")


def _open(model: ModelFile, threads: int, module: str, package: str, extra: str) -> Runner:
    try:
        library = import_module(module)
    except ImportError as error:
        raise MissingDependencyError(f"running {model.path.name}", package, extra) from error
    try:
        with quiet_stderr():  # it announces its delegate each time
            interpreter = library.Interpreter(model_path=str(model.path), num_threads=threads)
            interpreter.allocate_tensors()
            for item in interpreter.get_input_details():  # what memory happens to hold is in no table of words
                interpreter.set_tensor(item["index"], np.zeros(item["shape"], item["dtype"]))
            interpreter.invoke()  # whatever is allocated late is allocated now
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"{model.path} cannot be opened by {package} {version(package)}: {_reason(error)}"
        ) from error
    kind = LiteRTRunner if model.spec.state_placement == "external" else VariablesRunner
    return kind(interpreter, model, f"{package} {version(package)}")


def _reason(error: Exception) -> str:
    """Return the first line of the interpreter's words; for a file of junk they quote it, so only what prints."""
    line = (str(error).splitlines() or ["no reason given"])[0]
    return "".join(letter for letter in line if letter.isprintable())[:200]


class LiteRTRunner(StatefulRunner):
    """A step model in a TFLite interpreter, whose tensors are read and written in place."""

    def __init__(self, interpreter: Any, model: ModelFile, runtime: str) -> None:
        self.spec = spec = model.spec
        self.runtime = runtime
        tensors = _tensors(interpreter, model)
        carried = _carried(spec)
        self._states = [tensors["input", state.input] for state in carried]
        self._keeper = StateKeeper(spec)
        self._contexts = ContextKeeper(spec, [tensors["input", item.name] for item in spec.contexts])
        self._copies = plan_copies([tensors["output", state.output] for state in carried], self._states)
        self._writers = [writer(tensor, tensors["input", tensor.name]) for tensor in spec.inputs]
        ports = []
        for tensor in spec.outputs:
            memory = tensors["output", tensor.name]
            # An output in the memory of a state would be overwritten before the caller sees it.
            ports.append(reader(tensor, memory, in_place=not any(overlap(memory, s) for s in self._states)))
        self._outputs = tuple(real for real, _ in ports)
        self._readers = [read for _, read in ports if read is not None]
        # Without the library's look at who holds a view: `_view` says why ours may stay.
        self._open(getattr(getattr(interpreter, "_interpreter", None), "Invoke", interpreter.invoke))
        self._begin(None)

    def step(self, *frames: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Take one step; see `edgernn.stream.Runner`."""
        if len(frames) != len(self._writers):
            raise wrong_number(self.spec, frames)
        try:
            for write, array in zip(self._writers, frames):  # noqa: B905 (strict costs 0.1 µs; checked above)
                write(array)
            self._invoke()
        except AttributeError as error:
            raise not_arrays(self.spec, frames) from error
        except (RuntimeError, ValueError) as error:
            raise StepError(f"{self.runtime} failed in a step: {_reason(error)}") from error
        for read in self._readers:
            read()
        for target, origin in self._copies:
            target[:] = origin
        if self._keeper.holding:
            self._keeper.hold(self._states)
        return self._outputs

    def close(self) -> None:
        """Let go of the interpreter; its memory goes when the last view on it does."""
        self._invoke, self._withheld = _closed, None


class VariablesRunner(LiteRTRunner):
    """A step model with its states inside, as variables: reset, snapshot and restore are signatures of the file."""

    def __init__(self, interpreter: Any, model: ModelFile, runtime: str) -> None:
        self._interpreter = interpreter
        super().__init__(interpreter, model, runtime)

    def _begin(self, stream: int | None) -> None:
        chosen = np.zeros(self.spec.batch, np.bool_)
        chosen[self._keeper.chosen(stream)] = True
        self._call(RESET, {STREAMS: chosen})

    def snapshot(self, stream: int | None = None) -> State:
        """Return copies of all states and contexts, and of how far the warm-up is."""
        arrays, keeper = self._read()
        self._contexts.check(keeper.chosen(stream))
        return keeper.snapshot([*arrays, *self._contexts.arrays], stream)

    def restore(self, state: State, stream: int | None = None) -> None:
        """Go on from a snapshot; raise `ShapeError` if it is not one of this model."""
        arrays, keeper = self._read()
        keeper.restore([*arrays, *self._contexts.arrays], state, stream)
        self._given(keeper.chosen(stream))
        written = {spec.input: array for spec, array in zip(self.spec.states, arrays, strict=True)}
        counted = {STEPS: keeper.made.astype(np.int32)} if keeper.longest else {}
        self._call(RESTORE, {**written, **counted})

    def _read(self) -> tuple[list[NDArray[Any]], StateKeeper]:
        """Return what is inside now."""
        found, keeper = self._call(SNAPSHOT, {}), StateKeeper(self.spec)
        keeper.made[:] = found.get(STEPS, 0)
        return [found[spec.output] for spec in self.spec.states], keeper

    def _call(self, signature: str, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if self._interpreter is None:
            _closed()
        try:
            found: dict[str, NDArray[Any]] = self._interpreter.get_signature_runner(signature)(**inputs)
        except (RuntimeError, ValueError, TypeError) as error:
            raise StepError(f"{self.runtime} failed in the signature '{signature}': {_reason(error)}") from error
        return found

    def close(self) -> None:
        """Let go of the interpreter."""
        super().close()
        self._interpreter = None


def _carried(spec: StreamSpec) -> tuple[StateSpec, ...]:
    """Return the states that are tensors of the step."""
    return spec.states if spec.state_placement == "external" else ()


def _closed() -> None:
    raise StepError("the runner is closed: open the model again")


def _tensors(interpreter: Any, model: ModelFile) -> dict[tuple[str, str], NDArray[Any]]:
    """Return a lasting view of every tensor that a step takes or gives, by end ("input", "output") and name."""
    spec, carried = model.spec, _carried(model.spec)
    expected: Ends = {
        "input": [(t.name, t) for t in (*spec.inputs, *spec.contexts)] + [(s.input, s) for s in carried],
        "output": [(t.name, t) for t in spec.outputs] + [(s.output, s) for s in carried],
    }
    found = _checked(interpreter, model, "serving_default", expected)
    if spec.state_placement == "internal" and spec.states:
        counted = [(STEPS, TensorSpec(STEPS, (spec.batch,), "int32"))] * any(s.hold_steps for s in spec.states)
        states: list[tuple[str, TensorSpec | StateSpec]] = [(s.output, s) for s in spec.states]
        _checked(interpreter, model, SNAPSHOT, {"output": [*states, *counted]})
    return {(end, name): _view(interpreter, found[end][name]) for end, named in expected.items() for name, _ in named}


Ends = dict[str, list[tuple[str, TensorSpec | StateSpec]]]
"""For an end, "input" or "output": the names in a signature, and what they should be."""


def _checked(interpreter: Any, model: ModelFile, key: str, expected: Ends) -> dict[str, dict[str, Any]]:
    """Return what the file says of a signature's tensors; raise `ArtifactError` where that is not what is expected.

    Names are those of the file's signature, the one part of a TFLite file that the converter does not rename. The
    signature runner tells the indices behind them: it is the only public way, and alike in LiteRT and in
    tflite-runtime. It must be gone before the first step, since it holds what `invoke` wants for itself.
    """
    try:
        signature = interpreter.get_signature_runner(key)
    except ValueError as error:
        raise ArtifactError(
            f"{model.path} has no signature '{key}', so its tensors have no names: convert it again"
        ) from error
    found = {"input": signature.get_input_details(), "output": signature.get_output_details()}
    del signature
    for end, named in expected.items():
        if {name for name, _ in named} != set(found[end]):
            raise ArtifactError(
                f"{model.path} has the {end}s {', '.join(sorted(found[end]))}, the manifest says "
                f"{', '.join(sorted(name for name, _ in named))}: convert the model again"
            )
        for name, tensor in named:
            _check(f"{model.path}: the {end} '{name}'", tensor, found[end][name])
    return found


def _check(where: str, expected: TensorSpec | StateSpec, found: dict[str, Any]) -> None:
    scale, zero_point = found["quantization"]
    quant = QuantParams(float(scale), int(zero_point)) if scale else None
    pairs = {
        "shape": (expected.shape, tuple(int(size) for size in found["shape"])),
        "dtype": (expected.dtype, np.dtype(found["dtype"]).name),
        "quantization": (expected.quant, quant),
    }
    for what, (wanted, got) in pairs.items():
        if wanted != got and not (what == "quantization" and _alike(expected.quant, quant)):
            raise ArtifactError(
                f"{where} has {what} {got}, the manifest says {wanted}: the two do not belong together, "
                "convert the model again"
            )


def _alike(one: QuantParams | None, other: QuantParams | None) -> bool:
    """Compare as the file stores it: a scale is a float32 there, and may have more digits in the manifest."""
    if one is None or other is None:
        return one is other
    return one.zero_point == other.zero_point and math.isclose(one.scale, other.scale, rel_tol=1e-6)


def _view(interpreter: Any, details: dict[str, Any]) -> NDArray[Any]:
    """Return a view of a tensor's memory that may be kept while the interpreter runs.

    `invoke` refuses while an array from `tensor()` is alive, since it may move tensors. It moves them only when a
    shape changes, and all shapes of a step are static: so the address stays, and this array is made from it. The
    array keeps the interpreter alive, not the part of it that `invoke` counts references to.
    """
    address = interpreter.tensor(details["index"])().__array_interface__["data"][0]
    dtype, shape = np.dtype(details["dtype"]), tuple(int(size) for size in details["shape"])
    memory = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(address)
    memory.owner = interpreter
    return np.frombuffer(memory, dtype).reshape(shape)
