"""An approximation as a picture: how near the bounded step is to the exact model, against how long it waits."""

from __future__ import annotations

from pathlib import Path

from edgernn.approximation import Approximation
from edgernn.errors import MissingDependencyError, UsageError

__all__ = ["check_picture", "draw"]


def check_picture(path: Path) -> None:
    """Raise `UsageError` where `draw` could not draw: ask before doing what takes minutes."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise MissingDependencyError("drawing an approximation", "matplotlib", "plot") from error
    kinds = [f".{kind}" for kind in FigureCanvasAgg.get_supported_filetypes()]
    if path.suffix not in kinds:
        raise UsageError(f"--picture {path}: expected a name that ends in {', '.join(sorted(kinds))}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--picture {path}: the folder {path.absolute().parent} does not exist")


def draw(approximation: Approximation, name: str, path: Path, frame_rate_hz: float | None = None) -> None:
    """Write the rows of an approximation as curves, one for each output; accuracy beside them, where it is known."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = approximation.rows
    scored = approximation.source_accuracy is not None
    figure = Figure(figsize=(10 if scored else 6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    nearness, *right = figure.subplots(1, 2 if scored else 1, squeeze=False)[0]
    label, places = _places(approximation, frame_rate_hz)
    for index, output in enumerate(rows[0].outputs):
        nearness.plot(places, [row.outputs[index].snr_db for row in rows], marker="o", label=output.name)
    for place, row in zip(places, rows, strict=True):
        nearness.annotate(str(row.value), (place, row.outputs[0].snr_db), textcoords="offset points", xytext=(4, -12))
    nearness.set(xlabel=label, ylabel="SNR to the exact model, dB")
    nearness.legend()
    for axes in right:
        axes.plot(places, [100 * (row.accuracy or 0.0) for row in rows], marker="o", label="bounded")
        axes.axhline(100 * (approximation.source_accuracy or 0.0), linestyle="--", color="grey", label="exact")
        axes.set(xlabel=label, ylabel="accuracy on the dev set, %")
        axes.legend()
    figure.suptitle(f"{name}: {approximation.asked}", fontsize="medium")
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise UsageError(f"the picture {path} cannot be written: {error}") from error


def _places(approximation: Approximation, frame_rate_hz: float | None) -> tuple[str, list[float]]:
    """Return what the rows are drawn over: how long a frame waits or, where that is the same, the bound itself."""
    waits = [row.wait_frames for row in approximation.rows]
    numbers = f"(numbers: {approximation.varied}, frames)"
    if len(set(waits)) == 1:
        return f"{approximation.varied}, frames", [float(row.value) for row in approximation.rows]
    if frame_rate_hz is None:
        return f"a frame waits for at most so many frames {numbers}", [float(wait) for wait in waits]
    return f"a frame waits for at most so many ms {numbers}", [1000 * wait / frame_rate_hz for wait in waits]
