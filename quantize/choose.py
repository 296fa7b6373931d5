"""Choosing by evidence: every candidate is built, proven and timed on this machine, and the best one is kept.

A candidate is a format, a scheme and, where the runtime has recurrent operators, whether these are kept or taken apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgernn.artifact import Artifact, check_target
from edgernn.errors import EdgeRNNError, ToleranceError
from edgernn.machine import describe_machine
from edgernn.quantize.convert import Prepared, Say, prepare
from edgernn.quantize.options import GOALS, Options, check_options
from edgernn.quantize.proof import Built, Verdict
from edgernn.quantize.schemes import SCHEMES, Scheme, Tolerance
from edgernn.quantize.source import Source
from edgernn.quantize.stopwatch import bare, in_turns
from edgernn.text import table

__all__ = ["DEFAULT_TOLERANCE", "Tried", "best", "candidates", "convert_best", "front", "tell"]

ALIKE = 1.05
ROUNDS = 60
MOST_LETTERS = 90
DEFAULT_TOLERANCE = SCHEMES["dynamic-int8"].tolerance


@dataclass(frozen=True)
class Tried:
    """What came of a candidate."""

    kind: str
    scheme: Scheme
    cells: str
    """Whether recurrent operators are "kept" or taken "apart"."""
    item: Built | None = None
    verdict: Verdict | None = None
    reason: str = ""
    """Why it cannot be chosen; empty if it can."""
    us: float = 0.0
    """Low quartile of the time of a step, microseconds: what other work on the machine disturbs least."""
    spread_us: float = 0.0
    """Distance between the quartiles."""

    @property
    def name(self) -> str:
        """The candidate in words."""
        return f"{self.kind} {self.scheme.name}, cells {self.cells}"

    @property
    def content(self) -> bytes:
        """The file; empty without one."""
        return self.item.content if self.item else b""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.content)

    @property
    def snr_db(self) -> float:
        """Of the output that is worst."""
        return min((distance.snr_db for distance in self.verdict.distances), default=0.0) if self.verdict else 0.0

    def to_dict(self, on_front: bool, chosen: bool) -> dict[str, Any]:
        """Return what the manifest says of it."""
        facts: dict[str, Any] = {"format": self.kind, "scheme": self.scheme.name, "cells": self.cells}
        if self.item:
            facts["bytes"] = self.size
        if self.verdict:
            facts |= {"snr_db": self.snr_db}
            facts |= {"accuracy": self.verdict.accuracy["artifact"]} if self.verdict.accuracy else {}
        if self.reason:
            return facts | {"reason": self.reason}
        return facts | {"us": self.us, "spread_us": self.spread_us, "on_front": on_front, "chosen": chosen}


def convert_best(
    source: Source,
    output: Path,
    options: Options,
    schemes: Sequence[Scheme],
    tolerance: Tolerance | None,
    goal: str = "speed",
    say: Say = lambda line: None,
) -> Artifact:
    """Try `options.formats` with `schemes`, write the best as an artifact, and all of the table into its manifest.

    Each must keep within `tolerance`; where that is None, within `DEFAULT_TOLERANCE` and its own scheme's. What cannot
    be converted or is too far from the source is a row with its reason. Raises `ToleranceError` if none is left.
    """
    check_options(options, schemes)
    check_target(output)
    prepared = prepare(source, options, say)
    tried: list[Tried] = []
    listed = candidates(options.formats, schemes)
    for number, candidate in enumerate(listed, 1):
        say(f"{number} of {len(listed)}: {candidate.name}")
        result = _try(candidate, prepared, tolerance)
        same = next((other.name for other in tried if result.content and other.content == result.content), None)
        tried.append(replace(result, reason=f"the same file as {same}") if same else result)
    say(f"timing {sum(not item.reason for item in tried)} files in turns")
    tried = _timed(tried)
    if all(item.reason for item in tried):
        reasons = "; ".join(f"{item.name}: {item.reason}" for item in tried)
        raise ToleranceError(f"no candidate can be chosen: {reasons}")
    return _write(prepared, output, tried, tolerance, goal)


def candidates(formats: Sequence[str], schemes: Sequence[Scheme]) -> list[Tried]:
    """Return what there is to try: TFLite has no recurrent operators worth keeping, ONNX Runtime has them in float."""
    return [
        Tried(kind, scheme, cells)
        for kind in formats
        for scheme in schemes
        if kind in scheme.formats
        for cells in (("kept", "apart") if kind == "onnx" and not scheme.taken_apart else ("apart",))
    ]


def _try(candidate: Tried, prepared: Prepared, tolerance: Tolerance | None) -> Tried:
    scheme = candidate.scheme
    try:
        item = prepared.build(candidate.kind, scheme, candidate.cells)
        candidate = replace(candidate, item=item)
        verdict = prepared.proof.of(item)
        candidate = replace(candidate, verdict=verdict)
        verdict.check(_bar(scheme, tolerance), scheme.name)
    except ToleranceError as error:
        brief = str(error).partition("; ")[0].removeprefix(f"{scheme.name}: ")
        return replace(candidate, reason=_distance(candidate, _bar(scheme, tolerance)) or brief)
    except EdgeRNNError as error:
        return replace(candidate, reason=str(error))
    return candidate


def _bar(scheme: Scheme, tolerance: Tolerance | None) -> Tolerance:
    """Return what a candidate must keep within."""
    if tolerance is not None:
        return tolerance
    own, common = scheme.tolerance, DEFAULT_TOLERANCE
    return Tolerance(
        min(own.max_error, common.max_error),
        max(own.min_snr_db, common.min_snr_db),
        min(own.max_accuracy_loss, common.max_accuracy_loss),
    )


def _distance(candidate: Tried, tolerance: Tolerance) -> str:
    assert candidate.verdict is not None
    return next((reason for item in candidate.verdict.distances if (reason := item.misses(tolerance))), "")


def _timed(tried: Sequence[Tried]) -> list[Tried]:
    runs = {
        item.name: bare(item.item.content, item.kind, item.item.spec)
        for item in tried
        if item.item is not None and not item.reason
    }
    times = {name: np.percentile(rounds, (25, 75)) for name, rounds in in_turns(runs, ROUNDS).items()}
    return [
        replace(item, us=round(float(low), 2), spread_us=round(float(high - low), 2))
        for item in tried
        for low, high in [times.get(item.name, (0.0, 0.0))]
    ]


def front(tried: Sequence[Tried]) -> list[Tried]:
    """Return those that none other is at least as fast, as small and as true as, and better in one of it."""
    able = [item for item in tried if not item.reason]
    merits = [np.array([-item.us, -item.size, item.snr_db]) for item in able]
    return [
        item
        for item, mine in zip(able, merits, strict=True)
        if not any((other >= mine).all() and (other > mine).any() for other in merits)
    ]


def best(tried: Sequence[Tried], goal: str) -> Tried:
    """Choose by one of `GOALS`."""
    able = [item for item in tried if not item.reason]
    first, second = ("us", "size") if goal == "speed" else ("size", "us")
    least = min(getattr(item, first) for item in able)
    alike = [item for item in able if getattr(item, first) <= ALIKE * least]
    return min(alike, key=lambda item: (getattr(item, second), getattr(item, first)))


def _write(
    prepared: Prepared, output: Path, tried: Sequence[Tried], tolerance: Tolerance | None, goal: str
) -> Artifact:
    chosen, fronted = best(tried, goal), front(tried)
    assert chosen.item is not None
    assert chosen.verdict is not None
    machine = describe_machine()
    facts = {
        "optimized_for": {
            "machine": machine.board or machine.cpu,
            "rule": GOALS[goal],
            "candidates": [item.to_dict(item in fronted, item is chosen) for item in tried],
        }
    }
    options = replace(prepared.options, scheme=chosen.scheme, tolerance=_bar(chosen.scheme, tolerance))
    return replace(prepared, options=options).write(output, [chosen.item], [chosen.verdict], facts)


def tell(facts: Mapping[str, Any]) -> str:
    """Return the table of candidates, as a manifest's `conversion.optimized_for` has it, the fastest first."""
    scored = any("accuracy" in item for item in facts["candidates"])
    rows = [
        [
            item["format"], item["scheme"], item["cells"],
            f"{item['bytes'] / 1024:.0f}" if "bytes" in item else "",
            f"{item['us']:.1f}" if "us" in item else "",
            f"{item['spread_us']:.1f}" if "us" in item else "",
            f"{item['snr_db']:.1f}" if "snr_db" in item else "",
            *([f"{item['accuracy']:.2%}" if "accuracy" in item else ""] if scored else []),
            _standing(item),
        ]
        for item in sorted(facts["candidates"], key=lambda item: item.get("us", float("inf")))
    ]  # fmt: skip
    header = ["format", "scheme", "cells", "KB", "µs/step", "quartiles", "SNR dB", *["accuracy"] * scored, ""]
    return f"on {facts['machine']}: {facts['rule']}\n\n" + table(header, rows)


def _standing(item: Mapping[str, Any]) -> str:
    if "reason" in item:
        return f"no: {item['reason'][:MOST_LETTERS]}"
    return "chosen" if item["chosen"] else "on the Pareto front" if item["on_front"] else ""
