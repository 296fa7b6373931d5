"""`edgernn inspect`: what an artifact holds. Needs NumPy alone; no model is opened.

edgernn inspect ARTIFACT --json
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgernn.artifact import Artifact, ModelFile
from edgernn.certificate import read_certificate
from edgernn.spec import QuantParams, StreamSpec
from edgernn.text import table

__all__ = ["describe", "main"]


def main(arguments: Sequence[str], prog: str) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description="Check an artifact, and show what it holds.")
    parser.add_argument("artifact", help="folder that edgernn convert wrote")
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parser.parse_args(arguments)
    artifact = Artifact.open(options.artifact)
    print(json.dumps(_as_json(artifact), indent=1) if options.json else describe(artifact))
    return 0


def describe(artifact: Artifact) -> str:
    """Return everything about an artifact that was opened, and so checked, as text."""
    sections = [
        ("", _head(artifact)),
        ("files (digests checked)", _files(artifact)),
        *((title, text) for title, text in _specs(artifact)),
        ("front end" + ", inside the model" * artifact.front_end_embedded, _pairs(artifact.front_end)),
        ("decoder", _pairs(artifact.decoder)),
        ("training", _pairs(artifact.training)),
        ("conversion", _pairs(_made(artifact.conversion))),
        (
            f"parity: artifact against {'its bounded step' if artifact.approximation else 'source'}",
            _parity(artifact.parity),
        ),
        ("", artifact.approximation.describe(artifact.frame_rate_hz) if artifact.approximation else ""),
        ("drift certificate", _certificate(artifact)),
        ("for TensorFlow Lite Micro", _micro(artifact.conversion.get("micro"))),
        ("operators", _operators(artifact.conversion.get("operators"))),
    ]
    return "\n\n".join(f"{title}\n{text}" if title else text for title, text in sections if text)


def _head(artifact: Artifact) -> str:
    lines = [f"{artifact.name}, an EdgeRNN artifact in {artifact.path}"]
    if artifact.labels:
        lines.append(f"labels: {', '.join(artifact.labels)}")
    return "\n".join(lines)


def _models(artifact: Artifact) -> list[tuple[str, ModelFile]]:
    return [(program, model) for program, models in artifact.programs.items() for model in models.values()]


def _digest(model: ModelFile) -> str:
    return hashlib.sha256(model.path.read_bytes()).hexdigest()


def _files(artifact: Artifact) -> str:
    rows = [
        (model.path.name, program, model.format, model.scheme, model.nbytes, _digest(model)[:16])
        for program, model in _models(artifact)
    ]
    return table(["file", "program", "format", "scheme", "bytes", "SHA-256"], rows, "  ")


def _specs(artifact: Artifact) -> list[tuple[str, str]]:
    """Return a title and a text for each program, or for each file where the formats differ."""
    found: list[tuple[str, str]] = []
    for program, models in artifact.programs.items():
        different = {model.spec for model in models.values()}
        for kind, model in models.items():
            title = f"program {program}" + (f" as {kind}" if len(different) > 1 else "")
            if len(different) > 1 or not found or found[-1][0] != title:
                found.append((title, _spec(model.spec, artifact.frame_rate_hz)))
    return found


def _spec(spec: StreamSpec, frame_rate_hz: float | None) -> str:
    rows = [("input", t.name, _shape(t.shape), t.dtype, t.nbytes, _quant(t.quant), "") for t in spec.inputs]
    rows += [
        ("context", t.name, _shape(t.shape), t.dtype, t.nbytes, _quant(t.quant), "given once, at a reset")
        for t in spec.contexts
    ]
    rows += [
        ("output", t.name, _shape(t.shape), t.dtype, t.nbytes, _quant(t.quant), f"{kind}, delay {delay}")
        for t, kind, delay in zip(spec.outputs, spec.output_kinds, spec.output_delays, strict=True)
    ]
    rows += [
        ("state", s.name, _shape(s.shape), s.dtype, s.nbytes, _quant(s.quant), _initial(s.initial, s.hold_steps))
        for s in spec.states
    ]
    inside = ", inside the model" if spec.state_placement == "internal" else ""
    states = f"{len(spec.states)} states of {spec.state_nbytes} bytes{inside}"
    return f"  {spec.in_words(frame_rate_hz)}, {states}\n" + table(
        ["", "name", "shape", "dtype", "bytes", "scale, zero", "notes"], rows, "  "
    )


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _quant(quant: QuantParams | None) -> str:
    return f"{quant.scale:.6g}, {quant.zero_point}" if quant else ""


def _initial(initial: float, hold_steps: int) -> str:
    held = f", held for {hold_steps} step{'s' * (hold_steps > 1)}" if hold_steps else ""
    return f"starts at {initial:g}{held}"


def _pairs(values: Mapping[str, Any] | None) -> str:
    shown = {key: value for key, value in (values or {}).items() if value not in (None, [], {}, "")}
    width = max(map(len, shown), default=0)
    return "\n".join(f"  {key:<{width}}  {_plain(value)}" for key, value in shown.items())


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        shown = ", ".join(map(_plain, value[:4]))
        return f"{shown}, … ({len(value)} values)" if len(value) > 12 else ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parity(parity: Mapping[str, Any]) -> str:
    columns = {
        "max_abs": ("max error", "{:.2e}"),
        "mean_abs": ("mean error", "{:.2e}"),
        "snr_db": ("SNR dB", "{:.1f}"),
        "argmax_agreement": ("arg-max", "{:.1%}"),
    }
    rows = []
    for kind, report in parity.items():
        accuracy = report.get("accuracy") or {}
        tail = [_number(report.get("us_per_step"), "{:.1f}"), report.get("steps", "")]
        tail += [_number(accuracy.get(side), "{:.2%}") for side in ("source", "artifact")]
        rows += [
            (
                kind,
                output.get("name", ""),
                *(_number(output.get(key), form) for key, (_, form) in columns.items()),
                *tail,
            )
            for output in report.get("outputs", [])
        ]
    header = ["format", "output", *(title for title, _ in columns.values()), "µs/step", "steps", "source", "artifact"]
    return table(header, rows, "  ") if rows else ""


def _certificate(artifact: Artifact) -> str:
    if not artifact.certificate:
        return ""
    certificate = read_certificate(artifact)
    rows = [
        (
            kind, bound.name, f"{bound.max_abs:.2e}", f"{bound.elsewhere:.2e}", f"{bound.drift.first_tenth:.1e}",
            f"{bound.drift.last_tenth:.1e}", f"{bound.drift.slope_per_1000:+.0e}", made.runtime,
        )
        for kind, made in certificate.made.items()
        for bound in made.bounds
    ]  # fmt: skip
    header = ["format", "output", "max error", "elsewhere", "first tenth", "last tenth", "per 1000", "made by"]
    return f"  {certificate.steps} steps of {certificate.origin}\n" + table(header, rows, "  ")


def _number(value: Any, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) else ""


def _made(conversion: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of a conversion in a line each, without what there is nothing to say of."""
    elsewhere = ("operators", "micro")
    return {name: value for name, value in conversion.items() if name not in elsewhere and value not in (None, [])}


def _operators(operators: Any) -> str:
    if not isinstance(operators, Mapping):
        return ""
    lines = (
        f"  {kind}: " + ", ".join(f"{name} × {count}" for name, count in sorted(counts.items()))
        for kind, counts in operators.items()
    )
    return "\n".join(lines)


def _micro(operators: Any) -> str:
    """Return the calls that register what the file needs, for a program to copy."""
    if not isinstance(operators, list) or not operators:
        return ""
    known = [item for item in operators if isinstance(item, Mapping)]
    rows = [
        (
            f"resolver.{item['call']};" if item.get("call") else f"// {item.get('operator')}",
            f"// {', '.join(item.get('kinds', []))}{'' if item.get('kernel') else ': NO KERNEL'}",
        )
        for item in known
    ]
    width = max((len(call) for call, _ in rows), default=0)
    lines = [
        f"tflite::MicroMutableOpResolver<{sum(bool(item.get('call')) for item in known)}> resolver;",
        *(f"{call:<{width}}  {note}" for call, note in rows),
    ]
    return "\n".join(f"  {line}" for line in lines)


def _as_json(artifact: Artifact) -> dict[str, Any]:
    programs: dict[str, Any] = {}
    for program, model in _models(artifact):
        programs.setdefault(program, {})[model.format] = {
            "file": model.path.name,
            "bytes": model.nbytes,
            "sha256": _digest(model),
            "scheme": model.scheme,
            "state_bytes": model.spec.state_nbytes,
            "latency": model.spec.latency(artifact.frame_rate_hz),
            "stream": model.spec.to_dict(),
        }
    return {
        "name": artifact.name,
        "path": str(artifact.path),
        "digests": "checked",
        "programs": programs,
        "labels": list(artifact.labels),
        "frame_rate_hz": artifact.frame_rate_hz,
        "front_end": artifact.front_end,
        "front_end_embedded": artifact.front_end_embedded,
        "decoder": artifact.decoder,
        "training": artifact.training,
        "conversion": artifact.conversion,
        "parity": artifact.parity,
        "certificate": artifact.certificate and read_certificate(artifact).section(),
    }
