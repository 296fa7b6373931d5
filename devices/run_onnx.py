"""Steps in ONNX Runtime, with everything bound once.

Each state has two buffers, and two bindings take turns: what one step writes the next one reads, and nothing is
copied. Binding a state's output onto its own input would save a microsecond of 25, but an operator may still need
the old value when the new one is written. `run()` with a dict of arrays takes 9 µs longer than a bound step.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.artifact import ModelFile
from edgernn.devices.contexts import ContextKeeper
from edgernn.devices.ports import not_arrays, reader, writer, wrong_number
from edgernn.devices.providers import PROVIDERS, check_provider, provider_list
from edgernn.devices.states import StatefulRunner, StateKeeper
from edgernn.errors import ArtifactError, EdgeRNNError, MissingDependencyError, StepError, UsageError
from edgernn.machine import int8_overflows
from edgernn.spec import StateSpec, TensorSpec
from edgernn.stream import Runner
from edgernn.text import one_line

__all__ = ["OnnxRunner", "open_onnxruntime", "open_session"]

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def open_onnxruntime(model: ModelFile, threads: int = 1, provider: str = "cpu") -> Runner:
    """Open an ONNX file; raises `ArtifactError` if it is corrupt or not what its spec says.

    `provider` is one of `edgernn.devices.providers.PROVIDERS`; raises `UsageError` if it does not work here.
    """
    session = open_session(model, threads, provider)
    _check(session, model)
    return OnnxRunner(session, model, _package() if provider == "cpu" else f"{_package()} ({provider})")


def open_session(model: ModelFile, threads: int, provider: str, profile: Path | None = None) -> Any:
    """Open an ONNX file in a session of ONNX Runtime's; `profile` begins the name of what it writes down of a run."""
    try:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # nobody asked for reports to a third party
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(f"running {model.path.name}", "onnxruntime", "onnx") from error
    package = _package()
    check_provider(provider, onnxruntime.get_available_providers(), package)
    options = _options(onnxruntime, threads)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    try:
        session = onnxruntime.InferenceSession(
            str(model.path),
            options,
            providers=provider_list(provider, model),
            enable_fallback=0,  # to what failed just now, and with lines on standard output, which may be a pipe
        )
    except Exception as error:  # its exceptions have no base of their own below Exception
        raise ArtifactError(f"{model.path} cannot be opened by {package}: {one_line(error)}") from error
    if session.get_providers()[0] != PROVIDERS[provider][0]:  # it is there, and its libraries are not
        raise UsageError(
            f"{package} cannot start the provider {provider}: are the CUDA libraries of its version there?"
        )
    return session


def _package() -> str:
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"  # that of onnxruntime-gpu, too


def _options(onnxruntime: Any, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what is fatal: an error is raised, too, and said once
    options.add_session_config_entry("session.x64quantprecision", str(int(int8_overflows())))
    # Spinning threads would eat the core that the next chunk of sound needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _check(session: Any, model: ModelFile) -> None:
    """Compare the file's tensors with the spec; ONNX does not tell the quantization of inputs and outputs."""
    spec = model.spec
    expected: dict[str, dict[str, TensorSpec | StateSpec]] = {
        "input": {**{t.name: t for t in (*spec.inputs, *spec.contexts)}, **{s.input: s for s in spec.states}},
        "output": {**{t.name: t for t in spec.outputs}, **{s.output: s for s in spec.states}},
    }
    for end, nodes in (("input", session.get_inputs()), ("output", session.get_outputs())):
        found = {node.name: (tuple(node.shape), DTYPES.get(node.type, node.type)) for node in nodes}
        wanted = {name: (tensor.shape, tensor.dtype) for name, tensor in expected[end].items()}
        for name in sorted({*found, *wanted}):
            if found.get(name) != wanted.get(name):
                raise ArtifactError(
                    f"{model.path}: the {end} '{name}' is {found.get(name, 'not there')}, the manifest says "
                    f"{wanted.get(name, 'nothing of it')}: the two do not belong together, convert the model again"
                )


class OnnxRunner(StatefulRunner):
    """A step model in an ONNX Runtime session whose inputs and outputs are bound to lasting buffers."""

    def __init__(self, session: Any, model: ModelFile, runtime: str) -> None:
        self.spec = spec = model.spec
        self.runtime = runtime
        self._keeper = StateKeeper(spec)
        inputs = [np.zeros(tensor.shape, tensor.dtype) for tensor in (*spec.inputs, *spec.contexts)]
        frames, contexts = inputs[: len(spec.inputs)], inputs[len(spec.inputs) :]
        self._contexts = ContextKeeper(spec, contexts)
        outputs = [np.zeros(tensor.shape, tensor.dtype) for tensor in spec.outputs]
        self._states, self._next_states = (
            [np.zeros(state.shape, state.dtype) for state in spec.states] for _ in range(2)
        )
        self._memory = [*inputs, *outputs]  # the session holds addresses, not references
        self._writers = [writer(*pair) for pair in zip(spec.inputs, frames, strict=True)]
        ports = [reader(*pair, in_place=True) for pair in zip(spec.outputs, outputs, strict=True)]
        self._outputs = tuple(real for real, _ in ports)
        self._readers = [read for _, read in ports if read is not None]
        self._open(session.run_with_iobinding)
        self._binding, self._next_binding = (
            _bind(session, model, inputs, outputs, *pair)
            for pair in ((self._states, self._next_states), (self._next_states, self._states))
        )
        self._begin(None)

    def step(self, *frames: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Take one step; see `edgernn.stream.Runner`."""
        if len(frames) != len(self._writers):
            raise wrong_number(self.spec, frames)
        try:
            for write, array in zip(self._writers, frames):  # noqa: B905 (strict costs 0.1 µs; checked above)
                write(array)
            self._invoke(self._binding)
        except AttributeError as error:
            raise not_arrays(self.spec, frames) from error
        except EdgeRNNError:
            raise
        except Exception as error:  # its exceptions have no base of their own below Exception
            raise StepError(f"{self.runtime} failed in a step: {one_line(error)}") from error
        self._binding, self._next_binding = self._next_binding, self._binding
        self._states, self._next_states = self._next_states, self._states
        for read in self._readers:
            read()
        if self._keeper.holding:
            self._keeper.hold(self._states)
        return self._outputs

    def close(self) -> None:
        """Let go of the session."""
        self._invoke, self._withheld = _closed, None


def _closed(binding: object) -> None:
    raise StepError("the runner is closed: open the model again")


def _bind(
    session: Any,
    model: ModelFile,
    inputs: list[NDArray[Any]],
    outputs: list[NDArray[Any]],
    states: list[NDArray[Any]],
    next_states: list[NDArray[Any]],
) -> Any:
    """Return a binding that reads `inputs` and `states` and writes `outputs` and `next_states`."""
    spec, binding = model.spec, session.io_binding()
    ins = [t.name for t in (*spec.inputs, *spec.contexts)] + [s.input for s in spec.states]
    outs = [t.name for t in spec.outputs] + [s.output for s in spec.states]
    for name, array in zip(ins, [*inputs, *states], strict=True):
        binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    for name, array in zip(outs, [*outputs, *next_states], strict=True):
        binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    return binding
