"""A profile as a picture: how the times are spread, and how they went."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgernn.devices.measure import Times
from edgernn.errors import MissingDependencyError, UsageError
from edgernn.profile import Profile

__all__ = ["draw"]


def draw(profile: Profile, times: Times, path: str | Path) -> None:
    """Write a PNG (or what the suffix says) with a histogram and a time line of the steps."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError("drawing a profile", "matplotlib", "plot") from error
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    spread, line = figure.subplots(2, 1)
    shown = {name: values for name, values in times.items() if name.startswith("step")}
    highest = max(float(np.quantile(values, 0.999)) for values in shown.values())
    for name, values in shown.items():
        spread.hist(np.minimum(values, highest), bins=100, range=(0, highest), histtype="step", label=name)
    spread.set(xlabel="µs (the slowest 0.1 % are put into the last bar)", ylabel="steps", yscale="log")
    spread.set_title(f"{profile.artifact}, {profile.runtime}, {profile.machine.board or profile.machine.cpu}")
    spread.legend()
    name = "step, paced" if "step, paced" in times else "step"
    line.plot(times[name], linewidth=0.5)
    line.set(xlabel="step", ylabel=f"µs ({name})", yscale="log")
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise UsageError(f"the picture {path} cannot be written: {error}") from error
