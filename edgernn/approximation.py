"""What a bounded form costs, as an artifact holds it: its distance from the exact model, against how long it waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgernn.spec import Reader
from edgernn.text import table

__all__ = ["Approximation", "OutputDistance", "Row"]


@dataclass(frozen=True)
class OutputDistance:
    """How far one output of a bounded step, in float32, is from the source."""

    name: str
    max_abs: float
    snr_db: float
    argmax_agreement: float
    """Share of the frames in which the largest element is the same one, 0 to 1."""


@dataclass(frozen=True)
class Row:
    """A bound, how long it makes wait, and how far it is from the source."""

    value: int
    """Of the bound that is varied, frames."""
    latency_frames: int
    frames_per_step: int
    outputs: tuple[OutputDistance, ...]
    accuracy: float | None = None
    """Share of the dev set that the bounded step is right about, where there is one."""

    @property
    def wait_frames(self) -> int:
        """Input frames that the first frame of a step waits for at most: for its step, and for the look-ahead."""
        return self.latency_frames + self.frames_per_step - 1


@dataclass(frozen=True)
class Approximation:
    """How far a bounded step is from its source."""

    asked: str
    """As on the command line."""
    nodes: tuple[str, ...]
    """What is approximated, and how."""
    varied: str
    """The bound of which the rows have more and more; the last row has what was asked for."""
    rows: tuple[Row, ...]
    input: str
    """What was stepped through."""
    source_accuracy: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def read(cls, read: Reader) -> Approximation:
        """Read what `to_dict` wrote; raise `ArtifactError` where it does not fit."""
        read.refuse_unknown(cls)
        nodes, rows = read.array("nodes"), read.array("rows", least=1)
        return cls(
            asked=read.text("asked"),
            nodes=tuple(map(nodes.text, nodes)),
            varied=read.text("varied"),
            rows=tuple(_row(rows.section(index)) for index in rows),
            input=read.text("input"),
            source_accuracy=_optional(read, "source_accuracy"),
        )

    def describe(self, frame_rate_hz: float | None = None) -> str:
        """Return it as text: what is approximated, and a table of distance against waiting."""
        scored = self.source_accuracy is not None
        amounts = self.varied != "edges"  # which are left out or not: there is nothing to count
        header = [*([self.varied] if amounts else []), "waits, frames", *(["ms"] if frame_rate_hz else []), "output"]
        header += ["SNR dB", "max error"]
        header += ["arg-max", *(["accuracy"] if scored else [])]
        lines: list[list[object]] = []
        for row in self.rows:
            value = [row.value] if amounts else []
            waits = [
                *value,
                row.wait_frames,
                *([f"{1000 * row.wait_frames / frame_rate_hz:.0f}"] if frame_rate_hz else []),
            ]
            score = [f"{row.accuracy:.2%}"] if row.accuracy is not None else []
            for item in row.outputs:
                figures = [f"{item.snr_db:.1f}", f"{item.max_abs:.2e}", f"{item.argmax_agreement:.1%}"]
                lines.append([*waits, item.name, *figures, *score])
        exact = f"; the exact model: {self.source_accuracy:.2%}" if scored else ""
        return "\n".join(
            [
                f"approximated, as asked for by {self.asked}:",
                *(f"  {node}" for node in self.nodes),
                f"distance of the bounded step, in float32, from the exact model, over {self.input}{exact}:",
                "",
                table(header, lines, "  "),
            ]
        )


def _row(read: Reader) -> Row:
    read.refuse_unknown(Row)
    outputs = read.array("outputs", least=1)
    return Row(
        value=read.whole("value"),
        latency_frames=read.whole("latency_frames"),
        frames_per_step=read.whole("frames_per_step", 1),
        outputs=tuple(_distance(outputs.section(index)) for index in outputs),
        accuracy=_optional(read, "accuracy"),
    )


def _distance(read: Reader) -> OutputDistance:
    read.refuse_unknown(OutputDistance)
    numbers: Mapping[str, float] = {key: read.number(key) for key in ("max_abs", "snr_db", "argmax_agreement")}
    return OutputDistance(read.text("name"), **numbers)


def _optional(read: Reader, key: str) -> float | None:
    return read.number(key) if read.has(key) else None
