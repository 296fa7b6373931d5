"""What a training came to: confusion matrix and recall, the course of loss and accuracy, as text and pictures."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from edgernn.text import table

__all__ = [
    "confusion_matrix",
    "confusion_text",
    "interval",
    "plot_confusion",
    "plot_history",
    "recalls",
    "write_history",
]

Counts = NDArray[np.int64]


def confusion_matrix(truth: Counts, found: Counts, classes: int) -> Counts:
    """Return how often class `row` was taken for class `column`: shape `(classes, classes)`.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    array([[1, 1],
           [0, 1]])
    """
    return np.bincount(truth * classes + found, minlength=classes * classes).reshape(classes, classes)


def recalls(confusion: Counts, labels: Sequence[str]) -> dict[str, float]:
    """Return the share of each class that was recognised; classes without clips are left out."""
    totals = confusion.sum(axis=1)
    return {label: float(confusion[i, i] / totals[i]) for i, label in enumerate(labels) if totals[i]}


def interval(right: int, total: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share: Wilson 1927.

    >>> low, high = interval(96, 100)
    >>> round(low, 3), round(high, 3)
    (0.902, 0.984)
    """
    z = 1.959964
    share, scale = right / total, 1.0 + z * z / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1.0 - share) / total + z * z / (4 * total * total))
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def confusion_text(confusion: Counts, labels: Sequence[str]) -> str:
    """Return accuracy, recall and precision of each class, and the matrix, for people."""
    right, total = int(np.trace(confusion)), int(confusion.sum())
    low, high = interval(right, total)
    recall, said = recalls(confusion, labels), confusion.sum(axis=0)
    rows = [
        (
            label,
            int(confusion[i].sum()),
            f"{100 * recall[label]:.1f}" if label in recall else "",
            f"{100 * confusion[i, i] / said[i]:.1f}" if said[i] else "",
            *confusion[i],
        )
        for i, label in enumerate(labels)
    ]
    matrix = table(["truth", "clips", "recall %", "precision %", *labels], rows)
    return (
        f"accuracy {100 * right / total:.2f} % ({right} of {total} clips), "
        f"95 % interval {100 * low:.1f} to {100 * high:.1f} %\n\n{matrix}\n"
    )


def plot_confusion(confusion: Counts, labels: Sequence[str], path: Path) -> None:
    """Draw the matrix, each row as shares of its class, with the counts written in."""
    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    figure = Figure(figsize=(2 + 0.5 * len(labels), 1.6 + 0.45 * len(labels)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("recognised as")
    axes.set_ylabel("spoken")
    for row, column in np.argwhere(confusion):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, dpi=100)


def plot_history(history: Sequence[Mapping[str, float]], best_epoch: int, path: Path) -> None:
    """Draw loss and accuracy over the epochs, and mark the one that was kept."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(epochs, [row[quantity] for row in history], label="train, augmented")
        axes.plot(epochs, [row[f"dev_{quantity}"] for row in history], label="dev, averaged weights")
        axes.axvline(best_epoch, color="grey", linestyle=":", label=f"kept: epoch {best_epoch}")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_ylabel(quantity)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=100)


def write_history(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write one line of comma-separated values for each epoch."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)
