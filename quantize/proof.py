"""Files that a conversion makes, and their proof: each against the source, over a long stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.approximation import Approximation
from edgernn.certificate import Certificate, on_levels
from edgernn.quantize.approximation import BoundedStep, measure_approximation
from edgernn.quantize.bounds import Bounds
from edgernn.quantize.certify import begin_certificate, enter
from edgernn.quantize.exact import is_exact
from edgernn.quantize.examples import Streams, lanes
from edgernn.quantize.parity import (
    PREFIXES,
    Dev,
    Distance,
    Expected,
    accuracy,
    check,
    check_accuracy,
    expected_outputs,
    measure,
)
from edgernn.quantize.schemes import Scheme, Tolerance
from edgernn.quantize.source import Source
from edgernn.quantize.stepping import Invoke, invoker, open_tflite
from edgernn.quantize.stopwatch import microseconds
from edgernn.quantize.streaming import StepGraph
from edgernn.spec import StreamSpec

__all__ = ["RUNTIMES", "Built", "Proof", "Verdict"]

RUNTIMES = {"tflite": "ai-edge-litert", "onnx": "onnxruntime"}
"""What each format is run with, to compare it with its source."""


@dataclass(frozen=True)
class Built:
    """One file, not written yet."""

    kind: str
    scheme: Scheme
    content: bytes
    spec: StreamSpec

    @property
    def file(self) -> str:
        """Name of the file in its artifact."""
        return f"step.{self.kind}"

    @property
    def operators(self) -> dict[str, int]:
        """How many there are of each operator."""
        if self.kind == "onnx":
            graph = ir.from_proto(onnx.load_from_string(self.content)).graph
            return dict(Counter(node.op_type for node in graph.all_nodes()))
        names = [operator["op_name"] for operator in open_tflite(self.content)._get_ops_details()]
        return dict(Counter(name for name in names if name != "DELEGATE"))


@dataclass(frozen=True)
class Verdict:
    """How far a file is from its source."""

    distances: Sequence[Distance]
    accuracy: dict[str, float] | None
    """Shares of the dev set that the source and the file are right about, and its clips; None without a dev set."""

    def check(self, tolerance: Tolerance, where: str, advice: Sequence[str] = ()) -> None:
        """Raise `ToleranceError` if that is too far; see `parity.check` for `advice`."""
        check(self.distances, tolerance, where, advice)
        if self.accuracy:
            check_accuracy(self.accuracy, tolerance, where)


class Proof:
    """What the source gives for a long stream, asked once, to compare each file with."""

    def __init__(self, source: Source, step: StepGraph, streams: Streams, origin: str, total: int) -> None:
        self.source, self.step, self.origin, self.total = source, step, origin, total
        taken = total * step.frames_per_step
        self.frames = {"given": sum(len(stream[0]) for stream in streams), "taken": taken}
        frames = lanes(streams, taken, step.batch, step.inputs)
        self.stream = tuple(map(on_levels, frames))  # what the certificate can hold
        self.oracle = source.oracle()
        self.bounded = BoundedStep(step) if step.approximations else None
        self.expected = self._ask(self.stream)

    def _ask(self, stream: Sequence[NDArray[Any]], since: int = 0, prefixes: int = PREFIXES) -> Expected:
        """Ask the source; where the step is bounded, its float form, for then the source says something else."""
        if self.bounded is not None:
            return self.bounded.expected(stream, since)
        return expected_outputs(self.oracle, self.step, stream, since, prefixes)

    def of(self, item: Built) -> Verdict:
        """Step a file through the stream, and compare."""
        invoke = invoker(item.content, item.kind)
        distances = measure(self.expected, invoke, item.spec, self.stream)
        dev = self.source.dev
        return Verdict(distances, self._accuracy(invoke, item.spec, dev) if dev else None)

    def _accuracy(self, invoke: Invoke, spec: StreamSpec, dev: Dev) -> dict[str, float]:
        scores = accuracy(self.oracle, invoke, spec, dev)
        if self.bounded is None:
            return scores
        return {**scores, "bounded": accuracy(self.oracle, self.bounded.invoke, self.bounded.spec, dev)["artifact"]}

    def approximation(self, bounds: Bounds) -> Approximation | None:
        """Return how far a bounded step is from the source; None where nothing is approximated."""
        if self.bounded is None:
            return None
        frames, dev = self.stream, self.source.dev
        varied, rows, score = measure_approximation(self.source.step, self.step, bounds, self.oracle, frames, dev)
        nodes = self.step.approximations
        return Approximation(str(bounds), nodes, varied, tuple(rows), f"{self.total} steps of {self.origin}", score)

    def report(self, item: Built, verdict: Verdict, tolerance: Tolerance) -> dict[str, Any]:
        """Return what the manifest says of a file's proof."""
        report: dict[str, Any] = {
            "outputs": [asdict(distance) for distance in verdict.distances],
            "steps": self.total,
            "against": "source" if self.bounded is None else "bounded step in float32",
            "input": self.origin,
            "frames": self.frames,
            "bytes": len(item.content),
            "us_per_step": round(microseconds(item.content, item.kind, item.spec), 2),
            "tolerance": asdict(tolerance),
        }
        return report | ({"accuracy": verdict.accuracy} if verdict.accuracy else {})

    def certificate(self, built: Sequence[Built], total: int, tolerance: Tolerance) -> Certificate:
        """Return what a machine needs to prove the files again over `total` steps."""
        certificate = begin_certificate(self._ask, self.step, self.stream, self.expected, total, tolerance, self.origin)
        for item in built:
            runtime = RUNTIMES[item.kind]
            invoke = invoker(item.content, item.kind)
            made_by = f"{runtime} {version(runtime)}"
            certificate = enter(certificate, item.kind, invoke, item.spec, made_by, is_exact(item.operators))
        return certificate
