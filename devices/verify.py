"""`edgernn verify`: is an artifact on this machine the model that was proven on another one?

edgernn verify ARTIFACT --runtime litert --json
edgernn verify ARTIFACT --trusted release.pub

It steps the frames of the drift certificate through the runner, from reset, as a stream would be, and compares. A
program can do the same when it starts: `verify(Artifact.open(path))` raises `VerificationError` on a miss.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.artifact import Artifact
from edgernn.certificate import Bound, Certificate, Drift, Golden, read_certificate
from edgernn.devices.runner import CHOICES, RUNTIMES, find_runtime, open_model, runtime_for, runtime_on
from edgernn.devices.signing import check_signature, read_trusted
from edgernn.errors import UsageError, VerificationError
from edgernn.machine import describe_processor
from edgernn.stream import Runner
from edgernn.text import table

__all__ = ["Output", "Replay", "main", "replay", "verify"]


@dataclass(frozen=True)
class Output:
    """How one output was on this machine."""

    name: str
    from_golden: float
    """Worst difference from what the file gave when it was made."""
    allowed_from_golden: float
    from_source: float
    """Worst error against the source model."""
    allowed_from_source: float
    first_difference: int | None
    """The first of the compared steps that is not bit for bit the golden one."""
    worst_step: int
    drift: Drift
    """Of the error against the source."""

    @property
    def miss(self) -> str | None:
        """What is not as it should be, in words."""
        if not self.from_golden <= self.allowed_from_golden:  # true of NaN, too
            kind = "is not bit for bit" if self.allowed_from_golden == 0 else "is too far from"
            return (
                f"output {self.name} {kind} what it was when the artifact was made: worst at step {self.worst_step}, "
                f"by {self.from_golden:.3g} (allowed: {self.allowed_from_golden:.3g}; first difference at step "
                f"{self.first_difference})"
            )
        if not self.from_source <= self.allowed_from_source:
            return (
                f"output {self.name} is {self.from_source:.3g} from the source model "
                f"(allowed: {self.allowed_from_source:.3g})"
            )
        return None


@dataclass(frozen=True)
class Replay:
    """One file, stepped through the certificate on this machine."""

    program: str
    format: str
    scheme: str
    runtime: str
    same_machine: bool
    """Whether the runtime and the processor's instructions are those that made the golden output."""
    steps: int
    seconds: float
    outputs: tuple[Output, ...]

    @property
    def miss(self) -> str | None:
        """What is not as it should be, in words; None where all is well."""
        return next((output.miss for output in self.outputs if output.miss), None)


def verify(artifact: Artifact, runtime: str | None = None) -> list[Replay]:
    """Step every file of the artifact that `runtime` (default: any that is installed) can run.

    Raises `VerificationError` where a result is not what it should be, `ArtifactError` for an artifact without a
    certificate or whose files do not open, `UsageError` where no runtime fits.
    """
    replays = [replay(artifact, certificate, kind, name) for certificate, kind, name in _plan(artifact, runtime)]
    _raise_miss(artifact, replays)
    return replays


def replay(artifact: Artifact, certificate: Certificate, kind: str, runtime: str | None = None) -> Replay:
    """Step the file of format `kind` through the certificate; tell what came of it, and judge nothing."""
    model = artifact.model(kind)
    runner = open_model(model, runtime)
    try:
        begin = time.perf_counter()
        found = _step_through(runner, certificate)
        seconds = time.perf_counter() - begin
    finally:
        runner.close()
    made = certificate.made[kind]
    same = (runner.runtime, describe_processor()) == (made.runtime, made.processor)
    outputs = tuple(
        _compare(bound, golden, golden.made[kind], rows, certificate, same)
        for bound, golden, rows in zip(made.bounds, certificate.outputs, found, strict=True)
    )
    return Replay("step", kind, model.scheme, runner.runtime, same, certificate.steps, seconds, outputs)


def _plan(artifact: Artifact, runtime: str | None) -> list[tuple[Certificate, str, str]]:
    """Return which files are stepped in which runtime."""
    certificate = read_certificate(artifact)
    if runtime is not None:
        kind = find_runtime(runtime_for(runtime, certificate.made)).format
        if kind not in certificate.made:
            raise UsageError(f"{runtime} runs {kind} files, and the certificate is for {', '.join(certificate.made)}")
        return [(certificate, kind, runtime)]
    plan = []
    for kind in certificate.made:
        try:
            plan.append((certificate, kind, runtime_for(None, (kind,))))
        except UsageError:
            continue  # a board has one runtime, and the other file is not for it
    if not plan:
        runtime_for(None, certificate.made)  # tells what to install
    return plan


def _step_through(runner: Runner, certificate: Certificate) -> list[NDArray[np.float32]]:
    """Return each output at the steps that are compared."""
    shapes = [tensor.shape for tensor in runner.spec.outputs]
    found = [
        np.empty((len(golden.steps), *shape), np.float32)
        for golden, shape in zip(certificate.outputs, shapes, strict=True)
    ]
    wanted: dict[int, list[tuple[int, int]]] = {}
    for index, golden in enumerate(certificate.outputs):
        for row, step in enumerate(golden.steps.tolist()):
            wanted.setdefault(step, []).append((index, row))
    names = [tensor.name for tensor in runner.spec.contexts]
    runner.reset(context=dict(zip(names, certificate.contexts, strict=True)))
    for number, frames in enumerate(certificate.chunks(runner.spec)):
        outputs = runner.step(*frames)
        for index, row in wanted.get(number, ()):
            found[index][row] = outputs[index]
    return found


def _compare(
    bound: Bound, golden: Golden, made: NDArray[np.float32], found: NDArray[np.float32],
    certificate: Certificate, same: bool,
) -> Output:  # fmt: skip
    rows = (len(golden.steps), -1)
    away = np.abs(found.astype(np.float64) - made).reshape(rows).max(-1)
    differing = np.flatnonzero((found != made).reshape(rows).any(-1))
    return Output(
        name=bound.name,
        from_golden=float(away.max()),
        allowed_from_golden=0.0 if same else bound.elsewhere,
        from_source=float(golden.error(found).max()),
        allowed_from_source=certificate.tolerance * bound.scale,
        first_difference=int(golden.steps[differing[0]]) if len(differing) else None,
        worst_step=int(golden.steps[away.argmax()]),
        drift=golden.drift(found, certificate.steps),
    )


def _raise_miss(artifact: Artifact, replays: Sequence[Replay]) -> None:
    for item in replays:
        if item.miss:
            raise VerificationError(
                f"{artifact.model(item.format).path}, in {item.runtime}: {item.miss}; "
                "do not trust it on this machine: install another version of the runtime, or choose another --runtime"
            )


def main(arguments: Sequence[str], prog: str) -> int:
    """Run the command; return the exit status."""
    options = _parser(prog).parse_args(arguments)
    artifact = Artifact.open(options.artifact)
    if options.trusted:
        trusted = [read_trusted(key) for key in options.trusted]
        print(f"signed by {check_signature(artifact.path, trusted).fingerprint}", file=sys.stderr)
    plan = _plan(artifact, runtime_on(artifact, options.runtime, options.provider))
    replays = [replay(artifact, certificate, kind, name) for certificate, kind, name in plan]
    print(json.dumps(_as_json(artifact, replays), indent=1) if options.json else _report(artifact, plan[0][0], replays))
    _raise_miss(artifact, replays)
    return 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Prove again, on this machine, that an artifact is the model that it was made from: bit for bit "
        "on a processor and runtime like those that it was made with, within the certificate's bounds elsewhere.",
    )
    parser.add_argument("artifact", help="folder that edgernn convert wrote")
    parser.add_argument("--provider", choices=CHOICES, help="on which ONNX Runtime computes")
    parser.add_argument("--runtime", choices=RUNTIMES, help="default: for each file the first that is installed")
    parser.add_argument(
        "--trusted", action="append", default=[], metavar="KEY.pub", help="refuse it unless signed by such a key"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _report(artifact: Artifact, certificate: Certificate, replays: Sequence[Replay]) -> str:
    header = [
        "file", "runtime", "output", "from golden", "allowed", "first diff.", "from source", "allowed",
        "first tenth", "last tenth", "per 1000", "µs/step", "",
    ]  # fmt: skip
    rows = [
        [
            artifact.model(item.format).path.name, item.runtime, output.name,
            f"{output.from_golden:.2e}", f"{output.allowed_from_golden:.2e}",
            "–" if output.first_difference is None else str(output.first_difference),
            f"{output.from_source:.2e}", f"{output.allowed_from_source:.2e}",
            f"{output.drift.first_tenth:.1e}", f"{output.drift.last_tenth:.1e}", f"{output.drift.slope_per_1000:+.0e}",
            f"{1e6 * item.seconds / item.steps:.1f}", "differs" if output.miss else "as proven",
        ]
        for item in replays
        for output in item.outputs
    ]  # fmt: skip
    compared = max(len(golden.steps) for golden in certificate.outputs)
    return (
        f"{artifact.path}: {certificate.steps} steps of {certificate.origin}, {compared} of them compared\n\n"
        + table(header, rows)
    )


def _as_json(artifact: Artifact, replays: Sequence[Replay]) -> dict[str, Any]:
    return {
        "artifact": str(artifact.path),
        "processor": describe_processor(),
        "verified": not any(item.miss for item in replays),
        "replays": [{**asdict(item), "miss": item.miss} for item in replays],
    }
