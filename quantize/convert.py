"""The whole way from a trained model to an artifact, as a visible list of stages."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from edgernn import __version__
from edgernn.artifact import Artifact, check_target, write_artifact
from edgernn.certificate import CERTIFICATE, Certificate, on_levels
from edgernn.errors import UsageError
from edgernn.quantize.bounds import EXACT, Bounds
from edgernn.quantize.calibrate import Ranges, observe
from edgernn.quantize.cells import decompose_cells
from edgernn.quantize.certify import begin_certificate, enter
from edgernn.quantize.exact import is_exact
from edgernn.quantize.examples import Streams, generate_streams, lanes, read_streams
from edgernn.quantize.integers import quantize_values
from edgernn.quantize.parity import accuracy, check, check_accuracy, expected_outputs, measure
from edgernn.quantize.ranges import choose, everything
from edgernn.quantize.schemes import Scheme, Tolerance
from edgernn.quantize.simplify import simplify
from edgernn.quantize.source import Source
from edgernn.quantize.stepping import invoker, microseconds, open_tflite
from edgernn.quantize.streaming import StepGraph, stream
from edgernn.quantize.to_onnx import to_onnx
from edgernn.quantize.to_tflite import to_tflite
from edgernn.spec import StreamSpec

__all__ = ["FORMATS", "Options", "convert"]

RUNTIMES = {"tflite": "ai-edge-litert", "onnx": "onnxruntime"}
"""What each format is run with, to compare it with its source."""
FORMATS = tuple(RUNTIMES)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What a conversion is asked for."""

    formats: tuple[str, ...]
    scheme: Scheme
    tolerance: Tolerance
    bounds: Bounds = EXACT
    """Approximations asked for by name."""
    frames_per_step: int | None = None
    """A multiple of what the strides in time make necessary; None for just that."""
    batch: int = 1
    """Streams that one step serves."""
    calibration: Path | None = None
    parity_steps: int = 512
    """Steps that the artifact is compared with its source over; at least 500."""
    drift_steps: int = 5000
    """Steps that the drift certificate covers; with fewer than it has frames for, just these."""
    seed: int = 0
    """Of the generated input, where there is no example data."""
    name: str | None = None


@dataclass(frozen=True)
class _Built:
    """One file, not written yet."""

    kind: str
    content: bytes
    spec: StreamSpec

    @property
    def file(self) -> str:
        return f"step.{self.kind}"


def convert(source: Source, output: Path, options: Options, say: Say = lambda line: None) -> Artifact:
    """Convert, prove, and write the artifact; `say` hears of each stage.

    Raises `UnsupportedLayerError` for a layer without a streaming form, `ConversionError` for what a back end refuses,
    `ToleranceError` for a result that is not the source any more. Nothing is written unless all of it succeeds.
    """
    unknown = [kind for kind in options.formats if kind not in FORMATS]
    if unknown or not options.formats:
        raise UsageError(f"there is no format '{', '.join(unknown)}'; choose from {', '.join(FORMATS)}")
    missing = [kind for kind in options.formats if kind not in options.scheme.formats]
    if missing:
        raise UsageError(
            f"there is no {options.scheme.name} in {', '.join(missing)} files; choose --to "
            f"{','.join(options.scheme.formats)}, or another --quantize"
        )
    check_target(output)
    say("reading the layers")
    step = stream(source.graph(), options.frames_per_step, options.batch, options.bounds)
    kept = replace(step, model=simplify(step.model))
    taken_apart = replace(step, model=simplify(decompose_cells(step.model)))
    say(f"step graph: {step.frames_per_step} frames a step{_of_streams(step.batch)}, {len(step.states)} states")
    streams, origin = _example_streams(source, step, options)
    say(f"asking the source for {options.parity_steps} steps of {origin}")
    proof = _Proof(source, step, options, streams, origin)
    ranges = None
    if options.scheme.calibrated:
        say("stepping through the examples to find the range of every value")
        ranges = observe(taken_apart, streams)
    built, reports = [], {}
    for kind in options.formats:
        say(f"writing {kind}, {options.scheme.name}")
        built.append(_build(kind, kept, taken_apart, options.scheme, ranges))
        say(f"stepping {built[-1].file} and comparing")
        reports[kind] = proof.of(built[-1])
    say(f"stepping {options.drift_steps} steps for the drift certificate")
    certificate = proof.certificate(built)
    manifest = {**_manifest(source, options, built, reports), "certificate": certificate.section()}
    contents = {item.file: item.content for item in built}
    return write_artifact(output, manifest, {**contents, CERTIFICATE: certificate.content()})


def _of_streams(batch: int) -> str:
    return f" of {batch} streams" if batch > 1 else ""


class _Proof:
    """What the source gives for a long stream, asked once, to compare each file with."""

    def __init__(self, source: Source, step: StepGraph, options: Options, streams: Streams, origin: str) -> None:
        self.source, self.step, self.options, self.origin = source, step, options, origin
        frames = lanes(streams, options.parity_steps * step.frames_per_step, step.batch)
        self.stream = tuple(map(on_levels, frames))  # what the certificate can hold
        self.oracle = source.oracle()
        self.expected = expected_outputs(self.oracle, step, self.stream)

    def of(self, item: _Built) -> dict[str, Any]:
        """Return the report on a file; raise `ToleranceError` if it is too far from the source."""
        invoke = invoker(item.content, item.kind)
        distances = measure(self.expected, invoke, item.spec, self.stream)
        where = f"{item.file} ({self.options.scheme.name})"
        check(distances, self.options.tolerance, where)
        report: dict[str, Any] = {
            "outputs": [asdict(distance) for distance in distances],
            "steps": self.options.parity_steps,
            "input": self.origin,
            "bytes": len(item.content),
            "us_per_step": round(microseconds(item.content, item.kind, item.spec), 2),
            "tolerance": asdict(self.options.tolerance),
        }
        if self.source.dev:
            report["accuracy"] = accuracy(self.oracle, invoke, item.spec, self.source.dev)
            check_accuracy(report["accuracy"], self.options.tolerance, where)
        return report

    def certificate(self, built: Sequence[_Built]) -> Certificate:
        """Return what a machine needs to prove the files again."""
        options = self.options
        certificate = begin_certificate(
            self.oracle, self.step, self.stream, self.expected, options.drift_steps, options.tolerance, self.origin
        )
        for item in built:
            exact = is_exact(_operators(item))
            runtime = RUNTIMES[item.kind]
            invoke = invoker(item.content, item.kind)
            made_by = f"{runtime} {version(runtime)}"
            certificate = enter(certificate, item.kind, invoke, item.spec, made_by, exact)
        return certificate


def _build(kind: str, kept: StepGraph, taken_apart: StepGraph, scheme: Scheme, ranges: Ranges | None) -> _Built:
    spec = kept.spec()
    if kind == "onnx":
        return _Built(kind, *to_onnx(kept, taken_apart, spec, scheme, ranges))
    if ranges is not None:
        taken_apart = quantize_values(taken_apart, choose(taken_apart, ranges, everything(taken_apart)))
    return _Built(kind, *to_tflite(taken_apart, spec, scheme))


def _example_streams(source: Source, step: StepGraph, options: Options) -> tuple[Streams, str]:
    """Return streams that are like the model's input, and where they are from."""
    path = options.calibration or source.calibration
    if path is not None:
        return read_streams(path, step.spec().inputs, source.facts.get("front_end")), path.name
    return generate_streams(step, options.parity_steps * step.frames_per_step, options.seed), "generated noise"


def _manifest(source: Source, options: Options, built: Sequence[_Built], reports: dict[str, Any]) -> dict[str, Any]:
    facts = source.facts
    names = ("keras", "onnx", "onnxruntime", "onnx-ir", "ai-edge-litert", "tensorflow")
    return {
        "name": options.name or source.name,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "programs": {
            "step": {
                item.kind: {"file": item.file, "scheme": options.scheme.name, "stream": item.spec.to_dict()}
                for item in built
            }
        },
        "labels": facts.get("labels"),
        "frame_rate_hz": facts.get("frame_rate_hz"),
        "front_end": facts.get("front_end"),
        "decoder": facts.get("decoder"),
        "training": {
            key: facts[key] for key in ("task", "parameters", "accuracy", "data", "seconds", "versions") if key in facts
        },
        "conversion": {
            "source": source.path.name,
            "source_sha256": source.sha256,
            "scheme": options.scheme.name,
            "operators": {item.kind: _operators(item) for item in built},
            "versions": {"edgernn": __version__, **{name: version(name) for name in names}},
        },
        "parity": reports,
    }


def _operators(item: _Built) -> dict[str, int]:
    if item.kind == "onnx":
        return dict(Counter(node.op_type for node in onnx.load_from_string(item.content).graph.node))
    names = [operator["op_name"] for operator in open_tflite(item.content)._get_ops_details()]
    return dict(Counter(name for name in names if name != "DELEGATE"))
