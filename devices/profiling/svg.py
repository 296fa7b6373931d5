"""Plots as text of SVG and HTML, so that a report needs neither a plotting library nor a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["COLOURS", "Dot", "Line", "bars", "lines", "scatter"]

COLOURS = ("#1f6feb", "#d1242f", "#bf8700", "#1a7f37", "#8250df", "#6e7781", "#0b7285", "#bc4c00", "#99286e")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 860, 280, 62, 40, 14, 16


@dataclass(frozen=True)
class Line:
    """A curve; None is a gap."""

    name: str
    ys: Sequence[float | None]


@dataclass(frozen=True)
class Dot:
    """A point with a label; its area grows with `size`."""

    label: str
    x: float
    y: float
    size: float
    filled: bool = True


def lines(curves: Sequence[Line], x_label: str, y_label: str, first_x: int = 1, from_zero: bool = True) -> str:
    """Draw curves over 1, 2, 3, …"""
    known = [y for curve in curves for y in curve.ys if y is not None]
    count = max(len(curve.ys) for curve in curves)
    x = _Axis(first_x, max(first_x + count - 1, first_x + 1), LEFT, WIDTH - RIGHT)
    y = _padded(0.0 if from_zero else min(known), max(known), HEIGHT - BOTTOM, TOP)
    body = _frame(x, y, x_label, y_label)
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        points = [(x.at(first_x + i), y.at(value)) for i, value in enumerate(curve.ys) if value is not None]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if len(points) <= 60:
            body += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.4" fill="{colour}"/>' for px, py in points]
    return _svg(body, HEIGHT, y_label) + _legend([curve.name for curve in curves])


def bars(rows: Sequence[tuple[str, float]], unit: str) -> str:
    """Draw one horizontal bar for each row, with its number: no SVG, for its names wrap on a narrow screen."""
    most = max((value for _, value in rows), default=0.0) or 1.0
    body = [
        f"<span>{escape(name)}</span>"
        f'<span><i style="width:{max(0.3, 70 * value / most):.1f}%"></i>{value:.4g} {escape(unit)}</span>'
        for name, value in rows
    ]
    return f'<div class="bars">{"".join(body)}</div>'


def scatter(dots: Sequence[Dot], x_label: str, y_label: str) -> str:
    """Draw points over a logarithmic x, each with its label; those that are not filled stand back."""
    height = 400
    xs, ys = [math.log10(dot.x) for dot in dots], [dot.y for dot in dots]
    x = _padded(min(xs), max(xs), LEFT, WIDTH - RIGHT - 170)
    y = _padded(min(ys), max(ys), height - BOTTOM, TOP)
    body = _frame(x, y, x_label, y_label, height, log=True)
    largest = max(dot.size for dot in dots) or 1.0
    places = [(x.at(math.log10(dot.x)), y.at(dot.y), 4 + 12 * math.sqrt(dot.size / largest)) for dot in dots]
    taken = [(px - radius, px + radius, py - radius, py + radius) for px, py, radius in places]
    for dot, (px, py, radius) in zip(dots, places, strict=True):
        opacity, colour = (0.65, COLOURS[0]) if dot.filled else (0.18, COLOURS[5])
        body.append(
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity="{opacity}" '
            f'stroke="{colour}"><title>{escape(dot.label)}</title></circle>'
        )
        left, row = _free_place(px + radius + 4, py, dot.label, taken)
        body.append(f'<text x="{left:.1f}" y="{row + 4:.1f}">{escape(dot.label)}</text>')
    return _svg(body, height, y_label)


def _free_place(
    left: float, row: float, label: str, taken: list[tuple[float, float, float, float]]
) -> tuple[float, float]:
    """Return where a label meets neither points nor other labels, and take that place."""
    for away in sorted(range(-120, 121, 12), key=abs):
        box = (left, left + 6.2 * len(label), row + away - 7, row + away + 7)
        if row + away > TOP and not any(
            box[0] < other[1] and other[0] < box[1] and box[2] < other[3] and other[2] < box[3] for other in taken
        ):
            break
    taken.append(box)
    return left, row + away


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int, least: float = 0.0) -> list[float]:
        """Return round numbers along the axis, no closer than `least`."""
        step = 10 ** math.floor(math.log10((self.high - self.low) / most))
        step = next(step * k for k in (1, 2, 5, 10, 20) if (self.high - self.low) / (step * k) <= most)
        step = max(step, least)
        first = math.ceil(self.low / step - 1e-9)
        return [step * n for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _padded(low: float, high: float, start: float, end: float) -> _Axis:
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return _Axis(low if low == 0.0 else low - margin, high + margin, start, end)


def _frame(x: _Axis, y: _Axis, x_label: str, y_label: str, height: int = HEIGHT, log: bool = False) -> list[str]:
    body, floor = [], height - BOTTOM
    for tick in y.ticks(6):
        row = y.at(tick)
        body.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{row:.1f}" y2="{row:.1f}" stroke="#8884" />')
        body.append(f'<text x="{LEFT - 6}" y="{row + 4:.1f}" text-anchor="end">{tick:.5g}</text>')
    for tick in _log_ticks(x) if log else x.ticks(10, least=1):
        value = 10**tick if log else tick
        body.append(f'<text x="{x.at(tick):.1f}" y="{floor + 16}" text-anchor="middle">{value:.5g}</text>')
    body.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}" stroke="currentColor"/>')
    body.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{height - 6}" text-anchor="middle">{escape(x_label)}</text>')
    middle = (TOP + floor) / 2
    body.append(
        f'<text x="13" y="{middle}" text-anchor="middle" transform="rotate(-90 13 {middle})">{escape(y_label)}</text>'
    )
    return body


def _log_ticks(axis: _Axis) -> list[float]:
    decades = range(math.floor(axis.low), math.ceil(axis.high) + 1)
    marks = [math.log10(k * 10.0**n) for n in decades for k in (1, 2, 3, 5, 7)]
    return [mark for mark in marks if axis.low <= mark <= axis.high]


def _svg(body: Sequence[str], height: int, title: str) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
    return f'<div class="wide">{head}{"".join(body)}</svg></div>'


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    items = (
        f'<span><i style="background:{COLOURS[number % len(COLOURS)]}"></i>{escape(name)}</span>'
        for number, name in enumerate(names)
    )
    return f'<p class="legend">{"".join(items)}</p>'
