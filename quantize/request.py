"""What the words of a command line ask for: all that they can tell is checked here, before anything is loaded."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgernn.artifact import check_target
from edgernn.certificate import MOST_STEPS
from edgernn.errors import UsageError
from edgernn.files import check_there
from edgernn.quantize.bounds import EXACT, MOST_AT_ONCE, read_bounds
from edgernn.quantize.contexts import Asked, read_contexts
from edgernn.quantize.meaning import Meaning, read_meaning
from edgernn.quantize.model_path import check_model, is_graph
from edgernn.quantize.onnx_choices import OnnxChoices
from edgernn.quantize.options import DEFAULT_SCHEME, EXAMPLES, FORMATS, Options, check_options, read_goal
from edgernn.quantize.picture import check_picture
from edgernn.quantize.schemes import SCHEMES, Scheme, Tolerance, scheme_named
from edgernn.quantize.target import target_named
from edgernn.spec import PLACEMENTS

__all__ = ["Request", "read_request"]

LEAST_PARITY_STEPS = 500


@dataclass(frozen=True)
class Request:
    """A conversion that makes sense, as far as words can tell."""

    model: Path
    output: Path
    options: Options
    choices: OnnxChoices
    """What is said of an ONNX file."""
    contexts: Asked = field(default_factory=dict)
    """Inputs of a Keras model that are no sequences."""
    goal: str | None = None
    """What the best of several files is chosen for; None for files of one scheme."""
    schemes: tuple[Scheme, ...] = ()
    """Those to choose from."""
    tolerance: Tolerance | None = None
    """The one that was asked for, for all schemes alike."""
    embed_frontend: bool = False
    picture: Path | None = None
    meaning: Meaning = field(default_factory=Meaning)
    """What is said of its outputs."""


def read_request(words: argparse.Namespace) -> Request:
    """Read parsed options; raise `UsageError` naming the option that is wrong, or those that exclude one another."""
    target = target_named(words.target, words.runtime_floor)
    scheme = scheme_named(words.quantize or ("int8" if target.integer_only else DEFAULT_SCHEME))
    goal = read_goal(words.optimize_for) if words.optimize_for is not None else None
    one = goal is None or words.quantize or target.integer_only
    schemes = (scheme,) if one else tuple(SCHEMES.values())
    placement, pairs = _states(words.state)
    _check_numbers(words)
    options = Options(
        formats=_formats(words.to, schemes, placement == "internal" or target.integer_only),
        scheme=scheme,
        tolerance=_tolerance(words.tolerance, scheme),
        bounds=read_bounds(words.bidirectional, words.pooling, words.attention_window, words.approximate),
        frames_per_step=words.frames_per_step,
        batch=words.batch,
        state_placement=placement,
        target=target,
        calibration=words.calibrate,
        parity_steps=words.steps,
        drift_steps=words.drift_steps,
        seed=words.seed,
        name=words.name,
    )
    check_options(options, schemes)
    choices = OnnxChoices.read(words.time_axis, pairs, words.constant, words.frames_per_step)
    _check_pairs(words, options, bool(words.time_axis or pairs or words.constant))
    _check_paths(words)
    return Request(
        words.model, words.output, options, choices, read_contexts(words.context), goal, schemes,
        options.tolerance if words.tolerance else None, words.embed_frontend, words.picture,
        read_meaning(words.model, words.labels, words.decoder, words.frame_rate),
    )  # fmt: skip


def _check_numbers(words: argparse.Namespace) -> None:
    for option, number, least, most in (
        ("--batch", words.batch, 1, MOST_AT_ONCE),
        ("--frames-per-step", words.frames_per_step, 1, None),
        ("--seed", words.seed, 0, None),
        ("--drift-steps", words.drift_steps, 1, MOST_STEPS),
    ):
        if number is not None and not least <= number <= (number if most is None else most):
            upper = "" if most is None else f" to {most:,}"
            raise UsageError(f"{option} {number}: expected a whole number from {least}{upper}")
    if not LEAST_PARITY_STEPS <= words.steps <= MOST_STEPS:
        raise UsageError(f"--steps {words.steps}: a proof takes at least {LEAST_PARITY_STEPS}, at most {MOST_STEPS}")


def _check_pairs(words: argparse.Namespace, options: Options, of_onnx: bool) -> None:
    """Refuse options that have no meaning beside others."""
    if words.picture is not None and options.bounds == EXACT:
        raise UsageError("--picture shows what a bounded form costs, and nothing is bounded: leave it out")
    if words.embed_frontend and options.target.integer_only:
        raise UsageError("--embed-frontend computes in float, which --target integer-only rules out: leave out one")
    graph = words.model.suffix == ".onnx" or is_graph(words.model)
    if of_onnx and not graph:
        raise UsageError(
            "--time-axis, --state INPUT=OUTPUT and --constant are for ONNX files, and for SavedModels without layers: "
            "leave them out"
        )
    if words.context and graph:
        raise UsageError("--context is for Keras models: an input of an ONNX file that never changes is a --constant")


def _check_paths(words: argparse.Namespace) -> None:
    check_model(words.model)
    check_target(words.output)
    if words.calibrate is not None:
        check_there(words.calibrate, EXAMPLES)
    if words.picture is not None:
        check_picture(words.picture)


def _formats(text: str | None, schemes: Sequence[Scheme], tflite_only: bool) -> tuple[str, ...]:
    """Return the formats that were asked for, or else all that can be had.

    >>> _formats(None, [SCHEMES["weights-int8"]], False), _formats("tflite,onnx,tflite", [], False)
    (('onnx',), ('tflite', 'onnx'))
    """
    if text is not None:
        return tuple(dict.fromkeys(text.split(",")))
    had = tuple(kind for kind in FORMATS if any(kind in scheme.formats for scheme in schemes))
    return ("tflite",) if tflite_only else had


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
