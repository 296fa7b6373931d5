"""An ONNX file as a source."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.errors import ConversionError, EdgeRNNError, UsageError
from edgernn.quantize.bounds import EXACT, Bounds
from edgernn.quantize.from_onnx import NotASequenceError, OnnxSequence, from_onnx
from edgernn.quantize.from_onnx_step import OnnxStep, from_onnx_step
from edgernn.quantize.onnx_choices import OnnxChoices
from edgernn.quantize.onnx_files.axes import NoTimeAxisError
from edgernn.quantize.onnx_files.contain import try_apart
from edgernn.quantize.onnx_files.initial_states import initial_states
from edgernn.quantize.onnx_files.layout import Layout
from edgernn.quantize.onnx_files.memory import MOST_GB, limited_memory
from edgernn.quantize.onnx_files.own_states import candidates, find_states, states_by_shape
from edgernn.quantize.onnx_files.read import read_onnx
from edgernn.quantize.onnx_files.session import TooLargeError
from edgernn.quantize.oracle import Oracle
from edgernn.quantize.source import Source
from edgernn.quantize.streaming import StepGraph

__all__ = ["OnnxChoices", "OnnxSource", "OnnxStepSource", "load_onnx"]


@dataclass(frozen=True, kw_only=True)
class OnnxSource(Source):
    """An ONNX file over whole sequences."""

    sequence: OnnxSequence
    truth: Oracle | None = None
    """What the file was made from, where that can be run."""

    def graph(self) -> ir.Model:
        """Return the graph that the file was brought into when it was loaded."""
        return self.sequence.graph

    def oracle(self) -> Oracle:
        """Return the file itself in ONNX Runtime, or what it was made from."""
        return self.truth or self.sequence.oracle


@dataclass(frozen=True, kw_only=True)
class OnnxStepSource(Source):
    """An ONNX file with states of its own: it is a step already."""

    stepped: OnnxStep
    truth: Oracle | None = None
    """What the file was made from, where that can be run."""

    def graph(self) -> ir.Model:
        """Refuse: there is nothing over whole sequences."""
        raise ConversionError(f"{self.path} is a step with states of its own, not a model over whole sequences")

    def step(self, frames_per_step: int | None = None, batch: int = 1, bounds: Bounds = EXACT) -> StepGraph:
        """Return the file as a step, for one stream."""
        count = self.stepped.step.frames_per_step
        if batch != 1 or frames_per_step not in (None, count) or bounds != EXACT:
            raise UsageError(
                f"{self.path} has states of its own: its step takes {count} frames of one stream, exactly as it is: "
                "leave out --frames-per-step, --batch and every bound"
            )
        return self.stepped.step

    def oracle(self) -> Oracle:
        """Return the file itself in ONNX Runtime, or what it was made from, stepped with its own states."""
        return self.truth or self.stepped.oracle


def _moved(layouts: Mapping[str, Layout]) -> tuple[str, ...]:
    return tuple(
        f"{name} is {layout} in the file, and (batch, time, features...) here"
        for name, layout in layouts.items()
        if (layout.batch, layout.time) != (0, 1)
    )


def load_onnx(path: Path, choices: OnnxChoices, apart: bool = False) -> OnnxSource | OnnxStepSource:
    """Load an ONNX file; see `read_onnx`, `from_onnx` and `from_onnx_step` for what is refused.

    Where `apart`, it runs in a process of its own first, for a file from elsewhere may crash ONNX Runtime.
    """
    try:
        with limited_memory():
            return _load(path, choices, apart)
    except EdgeRNNError:
        raise
    except MemoryError as error:
        raise TooLargeError(f"{path} cannot be loaded within {MOST_GB:.2g} GB of memory") from error
    except Exception as error:  # a file may be valid and still contradict itself in ways that nobody thought of
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ConversionError(f"{path} cannot be brought into a graph over sequences: {reason}") from error


def _load(path: Path, choices: OnnxChoices, apart: bool) -> OnnxSource | OnnxStepSource:
    model = read_onnx(path)
    _fix(model, choices)
    if apart:
        try_apart(path, asdict(choices))
    states = find_states(model, choices.states)
    try:
        return _with_states(model, path, choices, states)
    except (ConversionError, UsageError) as error:
        pairs = candidates(model, states)
        if not pairs or "--state" in str(error) or isinstance(error, TooLargeError):
            raise
        known = "".join(f"--state {entering}={leaving}, " for entering, leaving in states.items())
        raise type(error)(f"{error}; if the file is a step, say which its states are: {known}{pairs}") from error


def _with_states(
    model: ir.Model, path: Path, choices: OnnxChoices, states: dict[str, str]
) -> OnnxSource | OnnxStepSource:
    known: dict[str, Any] = {
        "path": path,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "name": path.stem,
    }
    if set(states) <= {value.name for value in initial_states(model)}:
        try:
            sequence = from_onnx(model.clone(), choices.time_axes, states)
            compared = (sequence.compared,) if sequence.compared else ()
            return OnnxSource(sequence=sequence, remarks=(*_moved(sequence.layouts), *compared), **known)
        except NotASequenceError:
            pass
        except NoTimeAxisError as error:
            states |= states_by_shape(model, error.inputs, states)
    stepped = from_onnx_step(model, states, choices.time_axes, choices.frames_per_step)
    remarks = ("the file is a step with states of its own, and is the step here", *_moved(stepped.layouts))
    return OnnxStepSource(stepped=stepped, remarks=remarks, **known)


def _fix(model: ir.Model, choices: OnnxChoices) -> None:
    """Give the inputs that are constants their value."""
    inputs = {value.name: value for value in model.graph.inputs}
    for name, number in choices.constants.items():
        value = inputs.get(name)
        if value is None:
            names = ", ".join(map(str, inputs))
            raise UsageError(f"--constant {name}={number:g}: there is no such input; there are {names}")
        shape = tuple(size if isinstance(size, int) else 1 for size in value.shape or ())
        array = np.full(shape, number).astype((value.dtype or ir.DataType.FLOAT).numpy())
        if (array != number).any():
            raise UsageError(f"--constant {name}={number:g}: the input takes {value.dtype} only")
        model.graph.inputs.remove(value)
        value.const_value = ir.Tensor(array, name=name)
        model.graph.register_initializer(value)
