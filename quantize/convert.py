"""The whole way from a trained model to an artifact, as a visible list of stages."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgernn import __version__
from edgernn.approximation import Approximation
from edgernn.artifact import Artifact, check_target, write_artifact
from edgernn.certificate import CERTIFICATE
from edgernn.decode.spec import check_decoder, decoder_from_dict
from edgernn.endless import unbounded
from edgernn.errors import ConversionError
from edgernn.quantize.calibrate import Ranges, observe
from edgernn.quantize.cells import decompose_cells
from edgernn.quantize.examples import GENERATED, Streams, generate_sound, generate_streams, read_streams
from edgernn.quantize.micro import micro_operators
from edgernn.quantize.options import FORMATS, Options, check_options
from edgernn.quantize.proof import Built, Proof, Verdict
from edgernn.quantize.schemes import Scheme, finer
from edgernn.quantize.simplify import simplify
from edgernn.quantize.source import Source
from edgernn.quantize.streaming import StepGraph
from edgernn.quantize.tflite_variables import with_variables
from edgernn.quantize.to_onnx import to_onnx
from edgernn.quantize.to_tflite import plain_tflite, quantized_tflite
from edgernn.spec import StreamSpec

__all__ = ["FORMATS", "Options", "Prepared", "Say", "convert", "prepare"]

NOISE = "generated noise"
Say = Callable[[str], None]
TRAINING = ("task", "parameters", "accuracy", "data", "seconds", "versions", "quantize_aware")
"""What a manifest takes from the `run.json` of a training."""


def convert(source: Source, output: Path, options: Options, say: Say = lambda line: None) -> Artifact:
    """Convert, prove, and write the artifact; `say` hears of each stage.

    Raises `UnsupportedLayerError` for a layer without a streaming form, `ConversionError` for what a back end refuses,
    `ToleranceError` for a result that is not the source any more. Nothing is written unless all of it succeeds.
    """
    check_options(options, [options.scheme])
    check_target(output)
    prepared = prepare(source, options, say)
    built, verdicts = [], []
    for kind in options.formats:
        say(f"writing {kind}, {options.scheme.name}")
        item = prepared.build(kind, options.scheme)
        say(f"stepping {item.file} and comparing")
        verdict = prepared.proof.of(item)
        verdict.check(options.tolerance, f"{item.file} ({item.scheme.name})", _advice(item, prepared))
        built.append(item)
        verdicts.append(verdict)
    return prepared.write(output, built, verdicts)


def _advice(item: Built, prepared: Prepared) -> list[str]:
    """Return what may bring a file nearer to its source."""
    advice, schemes = [], finer(item.scheme, item.kind)
    if prepared.proof.origin == NOISE:
        advice.append(
            "it was compared on generated noise, which may be unlike anything it knows: give real frames with "
            "--calibrate"
        )
    if schemes and not prepared.options.target.integer_only:
        advice.append(f"--quantize {' or '.join(schemes)} keeps more of the weights")
    return advice


@dataclass(frozen=True)
class Prepared:
    """A step graph, ready to become files."""

    source: Source
    options: Options
    kept: StepGraph
    """With its recurrent operators."""
    taken_apart: StepGraph
    """With these as plain operations."""
    streams: Streams
    proof: Proof
    approximation: Approximation | None
    """How far the step is from the source, where that was bounded by name."""
    say: Say

    @cached_property
    def ranges(self) -> Ranges:
        """The range of every value, on example streams."""
        self.say("stepping through the examples to find the range of every value")
        return observe(self.taken_apart, self.streams)

    @cached_property
    def plain_tflite(self) -> tuple[bytes, StreamSpec]:
        """The TFLite file in float32, which every scheme begins with."""
        return plain_tflite(self.kept)

    def build(self, kind: str, scheme: Scheme, cells: str = "kept") -> Built:
        """Make a file of a format; recurrent operators that the runtime has are "kept" or taken "apart".

        Raises `ConversionError` for a step that has states of its own and loops that no device will open.
        """
        item = self._built(kind, scheme, cells)
        reason = unbounded(kind, item.content)
        if reason:
            raise ConversionError(f"{item.file}: {reason}; export the model without that")
        return item

    def _built(self, kind: str, scheme: Scheme, cells: str) -> Built:
        if kind == "onnx":
            ranges = self.ranges if scheme.calibrated else None
            kept = self.kept if cells == "kept" else self.taken_apart
            return Built(kind, scheme, *to_onnx(kept, self.taken_apart, self.kept.spec(), scheme, ranges))
        content, spec = quantized_tflite(*self.plain_tflite, scheme, self.streams, self.options.target)
        if self.options.state_placement == "internal":
            content, spec = with_variables(content, spec)
        return Built(kind, scheme, content, spec)

    def write(
        self, output: Path, built: Sequence[Built], verdicts: Sequence[Verdict], facts: Mapping[str, Any] | None = None
    ) -> Artifact:
        """Write the artifact; `facts` go into the section on its conversion."""
        options, pairs = self.options, zip(built, verdicts, strict=True)
        reports = {item.kind: self.proof.report(item, verdict, options.tolerance) for item, verdict in pairs}
        self.say(f"stepping {options.drift_steps} steps for the drift certificate")
        certificate = self.proof.certificate(built, options.drift_steps, options.tolerance)
        manifest = {**_manifest(self.source, options, built, reports), "certificate": certificate.section()}
        manifest["conversion"] |= facts or {}
        if self.approximation is not None:
            manifest["approximation"] = self.approximation.to_dict()
        contents = {item.file: item.content for item in built}
        return write_artifact(output, manifest, {**contents, CERTIFICATE: certificate.content()})


def prepare(source: Source, options: Options, say: Say) -> Prepared:
    """Read the layers, derive the step, and ask the source for what it gives over a long stream."""
    say("reading the layers")
    for remark in source.remarks:
        say(remark)
    step = source.step(options.frames_per_step, options.batch, options.bounds)
    if source.facts.get("decoder"):
        check_decoder(decoder_from_dict(source.facts["decoder"]), step.spec(), source.facts.get("labels") or ())
    kept = replace(step, model=simplify(step.model))
    taken_apart = replace(step, model=simplify(decompose_cells(step.model, rolled=True)))
    say(f"step graph: {step.frames_per_step} frames a step{_of_streams(step.batch)}, {len(step.states)} states")
    for item in step.spec().contexts:
        say(f"{item.name}, {' × '.join(map(str, item.shape[1:]))}: a context, given once when a stream begins")
    streams, origin = _example_streams(source, step, options)
    say(f"asking the source for {options.parity_steps} steps of {origin}")
    proof = Proof(source, step, streams, origin, options.parity_steps)
    if step.approximations:
        say("comparing the bounded step with the source")
    return Prepared(source, options, kept, taken_apart, streams, proof, proof.approximation(options.bounds), say)


def _of_streams(batch: int) -> str:
    return f" of {batch} streams" if batch > 1 else ""


def _example_streams(source: Source, step: StepGraph, options: Options) -> tuple[Streams, str]:
    """Return streams that are like the model's input, and where they are from."""
    path = options.calibration or source.calibration
    if path is not None:
        spec = step.spec()
        return read_streams(path, spec.inputs, source.facts.get("front_end"), spec.contexts, options.seed), path.name
    frames = options.parity_steps * step.frames_per_step
    if source.facts.get("front_end_embedded"):
        count, rate_hz = max(GENERATED, step.batch), source.facts["front_end"]["rate_hz"]
        return generate_sound(frames, count, rate_hz, options.seed), "generated sound"
    return generate_streams(step, frames, options.seed), NOISE


def _manifest(source: Source, options: Options, built: Sequence[Built], reports: dict[str, Any]) -> dict[str, Any]:
    facts = source.facts
    names = ("keras", "onnx", "onnxruntime", "onnx-ir", "ai-edge-litert", "tensorflow")
    return {
        "name": options.name or source.name,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "programs": {
            "step": {
                item.kind: {"file": item.file, "scheme": item.scheme.name, "stream": item.spec.to_dict()}
                for item in built
            }
        },
        "labels": facts.get("labels"),
        "frame_rate_hz": facts.get("frame_rate_hz"),
        "latency": built[0].spec.latency(facts.get("frame_rate_hz")),
        "front_end": facts.get("front_end"),
        "front_end_embedded": facts.get("front_end_embedded", False),
        "decoder": facts.get("decoder"),
        "training": {key: facts[key] for key in TRAINING if key in facts},
        "conversion": {
            "source": source.path.name,
            "remarks": list(source.remarks),
            "source_sha256": source.sha256,
            "scheme": built[0].scheme.name,
            "target": options.target.name,
            "runtime_floor": options.target.floor,
            **({"micro": micro_operators(built[0].content)} if options.target.integer_only else {}),
            "operators": {item.kind: item.operators for item in built},
            "versions": {"edgernn": __version__, **{name: version(name) for name in names}},
        },
        "parity": reports,
    }
