"""edgernn convert: does what the options ask for, and prints what came of it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgernn.artifact import MANIFEST, Artifact
from edgernn.files import read_file
from edgernn.progress import Progress
from edgernn.quantize.arguments import parser_of
from edgernn.quantize.picture import draw
from edgernn.quantize.request import Request, read_request
from edgernn.text import table

__all__ = ["main"]


def main(arguments: Sequence[str], prog: str) -> int:
    """Run `edgernn convert`; return the exit status."""
    words = parser_of(prog).parse_args(arguments)
    request = read_request(words)
    before = _already_there(request.output)
    with Progress(quiet=words.quiet) as progress:
        artifact = _convert(request, progress)
    if request.goal is not None:
        from edgernn.quantize.choose import tell

        print(tell(artifact.conversion["optimized_for"]) + "\n")
    print(_report(artifact) + before)
    if request.picture is not None and artifact.approximation is not None:
        draw(artifact.approximation, artifact.name, request.picture, artifact.frame_rate_hz)
    return 0


def _convert(request: Request, progress: Progress) -> Artifact:
    progress(f"loading {request.model.name}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("onnx_ir").setLevel(logging.CRITICAL)  # what it warns about a user cannot change
    from edgernn.quantize.choose import convert_best
    from edgernn.quantize.convert import convert
    from edgernn.quantize.embedded import embedded
    from edgernn.quantize.source import load_source

    source = load_source(request.model, request.choices, request.contexts)
    source = replace(source, facts={**source.facts, **request.meaning.facts})
    if request.embed_frontend:
        source = embedded(source)
    if request.goal is None:
        return convert(source, request.output, request.options, progress)
    return convert_best(
        source, request.output, request.options, request.schemes, request.tolerance, request.goal, progress
    )


def _already_there(output: Path) -> str:
    """Return what to say of an artifact that will be replaced, "" where there is none."""
    try:
        manifest = json.loads(read_file(output / MANIFEST, 2**26))
        return f"\n\nreplaced what was there: {manifest['name']}, of {manifest['created']}"
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""


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
        + "".join(f"\n\n{remark}" for remark in artifact.conversion["remarks"])
        + _repeated(first["input"], **first["frames"])
        + _still(first["outputs"])
    )


def _repeated(origin: str, given: int, taken: int) -> str:
    """Return what to say of examples that are shorter than the proof.

    >>> _repeated("frames.npz", 2048, 2048)
    ''
    """
    said = f"{origin} has {given:,} frames, and the proof took {taken:,}: they were repeated; more of them prove more"
    return f"\n\n{said}" if given < taken else ""


def _still(outputs: Sequence[Mapping[str, Any]]) -> str:
    """Return what to say of outputs that the source gives the same in every frame."""
    names = [item["name"] for item in outputs if not item["varies"]]
    said = "never changed while it was compared, in the source either: that proves little; give real examples"
    return f"\n\n{', '.join(names)} {said} (--calibrate), or look at the model" if names else ""
