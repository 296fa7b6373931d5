"""What a conversion is asked for, and what of it contradicts itself. Nothing heavy is imported to tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgernn.errors import UsageError
from edgernn.quantize.bounds import EXACT, Bounds
from edgernn.quantize.schemes import Scheme, Tolerance
from edgernn.quantize.target import CPU, Target

__all__ = ["DEFAULT_SCHEME", "EXAMPLES", "FORMATS", "GOALS", "Options", "check_options", "read_goal"]

FORMATS = ("tflite", "onnx")
DEFAULT_SCHEME = "dynamic-int8"
EXAMPLES = ".npz, .npy, a recording, or a folder of recordings"
GOALS = {
    "speed": "the fastest within the tolerance; of those that take at most 5 % longer, the smallest file",
    "size": "the smallest file within the tolerance; of those at most 5 % larger, the fastest",
}
"""What the best of several files is chosen for, and the rule."""


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
    state_placement: str = "external"
    """"external", tensors that a step takes and gives, or "internal", variables inside the (TFLite) model."""
    target: Target = CPU
    """What TFLite files are for."""
    calibration: Path | None = None
    parity_steps: int = 512
    """Steps that the artifact is compared with its source over; at least 500."""
    drift_steps: int = 5000
    """Steps that the drift certificate covers; with fewer than it has frames for, just these."""
    seed: int = 0
    """Of the generated input, where there is no example data."""
    name: str | None = None


def read_goal(text: str) -> str:
    """Read `this-machine` or `this-machine,size`; return one of `GOALS`.

    >>> read_goal("this-machine"), read_goal("this-machine,size")
    ('speed', 'size')
    """
    machine, _, goal = text.partition(",")
    if machine != "this-machine" or (goal or "speed") not in GOALS:
        raise UsageError(f"--optimize-for {text}: expected this-machine, or this-machine,size")
    return goal or "speed"


def check_options(options: Options, schemes: Sequence[Scheme]) -> None:
    """Raise `UsageError` for what is no format, or one that cannot be had in any of `schemes`, or with such states."""
    formats, target = options.formats, options.target
    unknown = [kind for kind in formats if kind not in FORMATS]
    if unknown or not formats:
        raise UsageError(f"there is no format '{', '.join(unknown)}'; choose from {', '.join(FORMATS)}")
    missing = [kind for kind in formats if not any(kind in scheme.formats for scheme in schemes)]
    if missing:
        raise UsageError(
            f"there is no {schemes[0].name} in {', '.join(missing)} files; choose --to {','.join(schemes[0].formats)}, "
            "or another --quantize"
        )
    if options.state_placement == "internal" and formats != ("tflite",):
        raise UsageError(
            "--state internal is for TFLite files alone, whose variables keep a value from one run to the next: ONNX "
            "has none, there a state has to go out and come in; choose --to tflite, or --state external"
        )
    if target.integer_only and (options.scheme.name, formats) != ("int8", ("tflite",)):
        raise UsageError(
            f"--target {target.name} is for int8 in TFLite: choose --quantize int8 --to tflite "
            f"(found {options.scheme.name} in {','.join(formats)})"
        )
    if target.floor is not None:
        _check_floor(target.floor, formats, schemes)


def _check_floor(floor: str, formats: Sequence[str], schemes: Sequence[Scheme]) -> None:
    if "tflite" not in formats:
        raise UsageError(
            f"--runtime-floor {floor} is for TFLite files, and --to {','.join(formats)} writes none: "
            "choose --to tflite, or leave --runtime-floor out"
        )
    if [scheme.name for scheme in schemes] == ["int4"]:
        raise UsageError(f"{floor} has no weights of 4 bits; choose --quantize int8, or leave --runtime-floor out")
