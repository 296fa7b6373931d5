"""edgernn convert: fills the options of a conversion, and prints what came of it."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgernn.artifact import MANIFEST, Artifact
from edgernn.certificate import MOST_STEPS
from edgernn.errors import UsageError
from edgernn.files import read_file
from edgernn.progress import Progress
from edgernn.quantize.bounds import EXACT, read_bounds
from edgernn.quantize.picture import check_picture, draw
from edgernn.quantize.schemes import SCHEMES, Scheme, Tolerance, scheme_named
from edgernn.quantize.target import CPU, FLOORS, TARGETS, target_named
from edgernn.spec import PLACEMENTS
from edgernn.text import table

__all__ = ["main"]

LEAST_PARITY_STEPS = 500
DEFAULT = "dynamic-int8"


def main(arguments: Sequence[str], prog: str) -> int:
    """Run `edgernn convert`; return the exit status."""
    options = _parser(prog).parse_args(arguments)
    target = target_named(options.target, options.runtime_floor)
    scheme = scheme_named(options.quantize or ("int8" if target.integer_only else DEFAULT))
    tolerance = _tolerance(options.tolerance, scheme)
    bounds = read_bounds(options.bidirectional, options.pooling, options.attention_window, options.approximate)
    if options.picture is not None:
        if bounds == EXACT:
            raise UsageError("--picture shows what a bounded form costs, and nothing is bounded: leave it out")
        check_picture(options.picture)
    for option, number in (("--batch", options.batch), ("--frames-per-step", options.frames_per_step)):
        if number is not None and number < 1:
            raise UsageError(f"{option} {number}: expected a whole number from 1")
    if options.seed < 0:
        raise UsageError(f"--seed {options.seed}: expected a whole number from 0")
    if not LEAST_PARITY_STEPS <= options.steps <= MOST_STEPS:
        raise UsageError(f"--steps {options.steps}: a proof takes at least {LEAST_PARITY_STEPS}, at most {MOST_STEPS}")
    if not 1 <= options.drift_steps <= MOST_STEPS:
        raise UsageError(f"--drift-steps {options.drift_steps}: expected 1 to {MOST_STEPS:,}")
    if options.embed_frontend and target.integer_only:
        raise UsageError("--embed-frontend computes in float, which --target integer-only rules out: leave out one")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("onnx_ir").setLevel(logging.CRITICAL)  # what it warns about a user cannot change
    from edgernn.quantize.choose import convert_best, read_goal, tell
    from edgernn.quantize.convert import FORMATS, Options, convert
    from edgernn.quantize.embedded import embedded
    from edgernn.quantize.onnx_source import OnnxChoices
    from edgernn.quantize.source import load_source

    placement, pairs = _states(options.state)
    tflite_only = placement == "internal" or target.integer_only
    goal = read_goal(options.optimize_for) if options.optimize_for is not None else None
    wanted = Options(
        formats=_formats(options.to, FORMATS if goal else scheme.formats, tflite_only),
        scheme=scheme,
        tolerance=tolerance,
        bounds=bounds,
        frames_per_step=options.frames_per_step,
        batch=options.batch,
        state_placement=placement,
        target=target,
        calibration=options.calibrate,
        parity_steps=options.steps,
        drift_steps=options.drift_steps,
        seed=options.seed,
        name=options.name,
    )
    choices = OnnxChoices.read(options.time_axis, pairs, options.constant, options.frames_per_step)
    if options.model.suffix != ".onnx" and (options.time_axis or pairs or options.constant):
        raise UsageError("--time-axis, --state INPUT=OUTPUT and --constant are for ONNX files: leave them out")
    before = _already_there(options.output)
    with Progress(quiet=options.quiet) as progress:
        progress(f"loading {options.model.name}")
        source = load_source(options.model, choices)
        if options.embed_frontend:
            source = embedded(source)
        if goal is None:
            artifact = convert(source, options.output, wanted, progress)
        else:
            schemes = [scheme] if options.quantize or target.integer_only else list(SCHEMES.values())
            asked = tolerance if options.tolerance else None
            artifact = convert_best(source, options.output, wanted, schemes, asked, goal, progress)
    if goal is not None:
        print(tell(artifact.conversion["optimized_for"]) + "\n")
    print(_report(artifact) + before)
    if options.picture is not None and artifact.approximation is not None:
        draw(artifact.approximation, artifact.name, options.picture, artifact.frame_rate_hz)
    return 0


def _formats(text: str | None, known: tuple[str, ...], tflite_only: bool) -> tuple[str, ...]:
    """Return the formats that were asked for, or else all that can be had."""
    if text is not None:
        return tuple(dict.fromkeys(text.split(",")))
    return ("tflite",) if tflite_only else known


def _states(given: Sequence[str]) -> tuple[str, list[str]]:
    """Return where states are, and the pairs INPUT=OUTPUT.

    >>> _states(["internal", "h=hn"])
    ('internal', ['h=hn'])
    """
    pairs = [text for text in given if "=" in text]
    placements = list(dict.fromkeys(text for text in given if "=" not in text)) or ["external"]
    unknown = [text for text in placements if text not in PLACEMENTS]
    if unknown:
        raise UsageError(f"--state {unknown[0]}: expected {' or '.join(PLACEMENTS)}, or INPUT=OUTPUT")
    if len(placements) > 1:
        raise UsageError(f"--state {' and --state '.join(placements)}: states are in one place; choose one of the two")
    return placements[0], pairs


def _already_there(output: Path) -> str:
    """Return what to say of an artifact that will be replaced, "" where there is none."""
    try:
        manifest = json.loads(read_file(output / MANIFEST, 2**26))
        return f"\n\nreplaced what was there: {manifest['name']}, of {manifest['created']}"
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""


class _ListLayers(argparse.Action):
    """Prints what has a rule, and ends: no other option is needed then."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from edgernn.quantize.supported import listing

        print(listing())
        parser.exit()


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog,
        usage=f"{prog} MODEL -o ARTIFACT [OPTIONS]; {prog} --help explains them",
        description="Turn a trained Keras or ONNX model into a streaming artifact, and prove that it is the same.",
        epilog="quantization: " + "; ".join(f"{s.name}: {s.about}" for s in SCHEMES.values()) + ".",
    )
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="a .keras, .h5 or .onnx file, or the folder of a SavedModel or of a training run",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="ARTIFACT",
        help="folder to write; an artifact that is there is replaced once the new one is proven, anything else never",
    )
    parser.add_argument(
        "--to", metavar="FORMATS", help="tflite or onnx or tflite,onnx (default: those that the quantization has)"
    )
    parser.add_argument(
        "--quantize",
        metavar="SCHEME",
        help=f"{', '.join(SCHEMES)} (default: {DEFAULT}; int8 for --target integer-only; all, to --optimize-for)",
    )
    parser.add_argument(
        "--optimize-for",
        metavar="this-machine[,size]",
        help="build, prove and time every format and scheme here, and keep the fastest (smallest) that is true enough",
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="DATA",
        help="examples of the input: .npz or .npy frames, a "
        "recording or a folder of them (default: the run's own, else generated noise)",
    )
    parser.add_argument(
        "--tolerance",
        metavar="E[,snr=DB][,accuracy=LOSS]",
        help="largest error allowed, as a share of the output's "
        "standard deviation where that is above one; least SNR; loss of dev accuracy (default: by scheme)",
    )
    _add_target(parser.add_argument_group("what TFLite files are for"))
    _add_shape(parser.add_argument_group("how a step is shaped"))
    _add_bounds(
        parser.add_argument_group("bounded forms of what needs the whole sequence (never used unless asked for)")
    )
    parser.add_argument("--steps", type=int, default=512, metavar="N", help="steps to compare over (default: 512)")
    parser.add_argument(
        "--drift-steps",
        type=int,
        default=5000,
        metavar="N",
        help="steps that the drift certificate covers, for edgernn verify (default: 5000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the generated input (default: 0)")
    parser.add_argument("--name", help="what the artifact is called (default: the model's name)")
    onnx = parser.add_argument_group("ONNX files", "what cannot be told from the file; each may be given several times")
    for option, metavar, text in (
        ("--time-axis", "INPUT=AXIS", "which axis of an input is time, counted from 0"),
        ("--constant", "INPUT=NUMBER", "an input that is always the same, such as a sample rate"),
    ):
        onnx.add_argument(option, action="append", default=[], metavar=metavar, help=text)
    parser.add_argument("-q", "--quiet", action="store_true", help="print the result only")
    parser.add_argument("--list-layers", action=_ListLayers, help="print the layers and operators that have a rule")
    return parser


def _add_target(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--target",
        default=CPU.name,
        metavar="|".join(TARGETS),
        help="integer-only: no float operator and no float tensor, frames and outputs included, for accelerators and "
        "microcontrollers (default: cpu)",
    )
    group.add_argument(
        "--runtime-floor",
        metavar="RUNTIME",
        help=f"the oldest runtime that must take the file: {', '.join(FLOORS)} (default: today's LiteRT)",
    )


def _add_shape(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--frames-per-step",
        type=int,
        metavar="N",
        help="frames that one step takes, a multiple of what strides in time make necessary (default: just that)",
    )
    group.add_argument(
        "--batch", type=int, default=1, metavar="N", help="streams that one step serves, each with its own states"
    )
    group.add_argument(
        "--embed-frontend",
        action="store_true",
        help="put the audio front end of a training run into the model, which then takes samples (its frames are "
        "samples, and --calibrate wants recordings)",
    )
    group.add_argument(
        "--state",
        action="append",
        default=[],
        metavar="WHERE",
        help="external: states are tensors that each step takes and gives (default); internal: variables inside the "
        "model, for programs that cannot carry them (TFLite alone); INPUT=OUTPUT: a state that an ONNX file itself "
        "takes and gives (default: told by name and shape), may be given several times",
    )


def _add_bounds(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--bidirectional",
        metavar="chunk=C,lookahead=L",
        help="backward halves read blocks of C frames from the end of the L frames behind them",
    )
    group.add_argument(
        "--pooling",
        metavar="running|window=N",
        help="global pooling over all frames so far (the default, exact) or over the last N",
    )
    group.add_argument(
        "--attention-window",
        metavar="N[,lookahead=L]",
        help="each frame attends to the newest N frames, and where the model looks ahead, to the L after it",
    )
    group.add_argument(
        "--approximate",
        metavar="edges",
        help="a last frame or a global pooling may leave out frames whose look-ahead is not there yet",
    )
    group.add_argument(
        "--picture",
        type=Path,
        metavar="FILE.png",
        help="draw how near the bounded model is to the exact one, for one look-ahead after the other",
    )


def _tolerance(text: str | None, scheme: Scheme) -> Tolerance:
    """Read `0.01`, `snr=20` or `0.01,snr=20`.

    >>> _tolerance("0.5,snr=12", SCHEMES["int8"])
    Tolerance(max_error=0.5, min_snr_db=12.0, max_accuracy_loss=0.01)
    """
    tolerance = scheme.tolerance
    for part in [] if text is None else text.split(","):
        name, _, value = part.rpartition("=")
        field = {"": "max_error", "max": "max_error", "snr": "min_snr_db", "accuracy": "max_accuracy_loss"}.get(name)
        try:
            number = float(value)
            if field is None or not math.isfinite(number) or (number < 0 and field == "max_error"):
                raise ValueError(part)
            tolerance = replace(tolerance, **{field: number})
        except ValueError:
            raise UsageError(f"--tolerance {text}: expected a number, snr=DB, or both, as in 0.01,snr=20") from None
    return tolerance


def _report(artifact: Artifact) -> str:
    """Return the parity table of a fresh artifact."""
    rows, header = [], ["file", "output", "max error", "mean error", "SNR dB", "arg-max", "drift", "KB", "µs/step"]
    accuracies = [report.get("accuracy") for report in artifact.parity.values()]
    if any(accuracies):
        header += ["source acc.", "artifact acc."]
    for kind, report in artifact.parity.items():
        drifts = [bound["drift"]["slope_per_1000"] for bound in artifact.certificate["made"][kind]["bounds"]]
        score = report.get("accuracy")
        tail = [f"{score['source']:.2%}", f"{score['artifact']:.2%}"] if score else []
        rows += [
            [
                artifact.programs["step"][kind].path.name, item["name"], f"{item['max_abs']:.2e}",
                f"{item['mean_abs']:.2e}", f"{item['snr_db']:.1f}", f"{item['argmax_agreement']:.1%}",
                f"{drift:+.0e}", f"{report['bytes'] / 1024:.0f}", f"{report['us_per_step']:.1f}", *tail,
            ]
            for item, drift in zip(report["outputs"], drifts, strict=True)
        ]  # fmt: skip
    first = next(iter(artifact.parity.values()))
    scheme, allowed = artifact.conversion["scheme"], first["tolerance"]
    compared = min(item["compared"] for item in first["outputs"])
    bounded, shape = artifact.approximation, artifact.model().spec.in_words(artifact.frame_rate_hz)
    against = "its source" if bounded is None else "its own bounded step in float32"
    part = "" if compared >= first["steps"] else f" (of their beginnings, {compared} compared)"
    return (
        f"{artifact.path}: {scheme}, proven against {against} over {first['steps']} steps of {first['input']}{part}\n"
        f"{shape}\n"
        f"allowed: error {allowed['max_error']:g}, SNR from {allowed['min_snr_db']:g} dB; drift: of the mean error, in "
        f"1,000 steps, over {artifact.certificate['steps']:,}\n\n"
        + table(header, rows)
        + (f"\n\n{bounded.describe(artifact.frame_rate_hz)}" if bounded else "")
        + _still(first["outputs"])
    )


def _still(outputs: Sequence[Mapping[str, Any]]) -> str:
    """Return what to say of outputs that the source gives the same in every frame."""
    names = [item["name"] for item in outputs if not item["varies"]]
    said = "never changed while it was compared, in the source either: that proves little; give real examples"
    return f"\n\n{', '.join(names)} {said} (--calibrate), or look at the model" if names else ""
