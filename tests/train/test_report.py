from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from edgernn.train.report import (
    confusion_matrix,
    confusion_text,
    interval,
    plot_confusion,
    plot_history,
    recalls,
    write_history,
)

LABELS = ("up", "down", "never")
CONFUSION = confusion_matrix(np.array([0] * 8 + [1] * 12), np.array([0] * 6 + [1] * 13 + [2]), 3)
HISTORY = [{"epoch": n, "loss": 1 / n, "accuracy": 0.5, "dev_loss": 2 / n, "dev_accuracy": 0.6} for n in (1, 2)]


def test_rows_are_the_truth() -> None:
    assert CONFUSION.tolist() == [[6, 2, 0], [0, 11, 1], [0, 0, 0]]


def test_recall_leaves_out_classes_without_clips() -> None:
    assert recalls(CONFUSION, LABELS) == pytest.approx({"up": 6 / 8, "down": 11 / 12})


def test_the_text_says_accuracy_interval_recall_and_counts() -> None:
    lines = confusion_text(CONFUSION, LABELS).splitlines()
    assert lines[0] == "accuracy 85.00 % (17 of 20 clips), 95 % interval 64.0 to 94.8 %"  # Wilson, by R's prop.test
    assert lines[3].split() == ["up", "8", "75.0", "100.0", "6", "2", "0"]
    assert lines[5].split() == ["never", "0", "0.0", "0", "0", "0"]


@pytest.mark.parametrize(("right", "expected"), [(0, (0.0, 0.2775)), (10, (0.7225, 1.0)), (5, (0.2366, 0.7634))])
def test_the_interval_stays_within_0_and_1(right: int, expected: tuple[float, float]) -> None:
    assert interval(right, 10) == pytest.approx(expected, abs=1e-4)


def test_pictures_and_history_are_written(tmp_path: Path) -> None:
    plot_confusion(CONFUSION, LABELS, tmp_path / "confusion.png")
    plot_history(HISTORY, 2, tmp_path / "history.png")
    write_history(HISTORY, tmp_path / "history.csv")
    for name in ("confusion.png", "history.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "history.csv").read_text().splitlines()[2] == "2,0.5,0.5,1.0,0.6"


@pytest.mark.parametrize("epochs", [1, 2, 7])
def test_epochs_are_marked_by_whole_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    plot_history([{**HISTORY[0], "epoch": number + 1} for number in range(epochs)], 1, tmp_path / "history.png")
    for axes in drawn[0].axes:
        assert len(axes.get_xticks())
        assert all(float(tick).is_integer() for tick in axes.get_xticks())
