"""One step of 2 × LSTM(128) on 40 features with 12 outputs: EdgeRNN against the other ways to run it.

    python -m tests.benchmarks.step [--quick] [--json FILE]      (or: make bench)

Every row runs the same Keras weights in a process of its own; all of them share one core and take turns, a few
milliseconds of steps each, for many rounds, so that what else the machine does falls on all alike; a batch in whose
middle the core was given to another process is run again. What is shown is the median over the rounds, the distance
between their quartiles, and how far the outputs are from what Keras gives for the whole sequence. Packages that are
not installed leave their row out. Takes about two minutes, most of it conversion.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from edgernn.machine import describe_machine
from edgernn.text import table
from tests.benchmarks.network import (
    FEATURES,
    FRAMES,
    OUTPUTS,
    UNITS,
    Array,
    convert_with_edgernn,
    make_plain_onnx,
    make_reference,
    make_stock_tflite,
)
from tests.benchmarks.peers import BARS, ROWS, Row, Step

ONE_THREAD = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
BATCH_S = 0.001  # the shortest; it may take twice that
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


class Lane:
    """A row in a process of its own, which waits until it is told to run a batch of steps."""

    def __init__(self, row: Row, folder: Path) -> None:
        self.row = row
        spawn = multiprocessing.get_context("spawn")
        self._pipe, far_end = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(row.name, folder, far_end), daemon=True)
        self._process.start()
        far_end.close()
        try:
            self.error: float = self._pipe.recv()
        except EOFError:
            raise SystemExit(f"{row.name}: failed, see above") from None
        self._steps = 1
        self.batches: list[float] = []

    def calibrate(self) -> None:
        """Find how many steps make a batch; that warms up, too."""
        while self._run() * self._steps < BATCH_S:
            self._steps *= 2

    def run_batch(self) -> None:
        """Run one batch and remember its seconds per step."""
        self.batches.append(self._run())

    def _run(self) -> float:
        self._pipe.send(self._steps)
        seconds: float = self._pipe.recv()
        return seconds

    def close(self) -> None:
        """End the process."""
        self._pipe.send(0)
        self._process.join()


def _serve(name: str, folder: Path, pipe: Connection) -> None:
    row = next(row for row in ROWS if row.name == name)  # by name, since its functions cannot be pickled
    step = row.open(folder)
    inputs = list(FRAMES.reshape(-1, *row.shape))
    outputs = np.array([np.array(step(frames)).reshape(OUTPUTS) for frames in inputs])
    pipe.send(float(np.abs(outputs - np.load(folder / "outputs.npy")[-len(inputs) :]).max()))
    while steps := pipe.recv():
        batch = list(itertools.islice(itertools.cycle(inputs), steps))
        pipe.send(_time(step, batch))


def _time(step: Step, batch: Sequence[Array]) -> float:
    """Return the seconds per step of a batch during which the core was ours, or of the last of ten tries."""
    for _ in range(10):
        for frames in batch[: len(batch) // 4]:  # the caches belong to whoever ran before
            step(frames)
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        start = time.perf_counter()
        for frames in batch:
            step(frames)
        seconds = time.perf_counter() - start
        if resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw == switches:
            break
    return seconds / len(batch)


def measure(rows: Sequence[Row], folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Let the rows take turns, in another order each round; return one record a row."""
    lanes = []
    for row in rows:
        print(f"opening {row.name}", file=sys.stderr)
        lanes.append(Lane(row, folder))
    for lane in lanes:
        lane.calibrate()
    order = random.Random(0)
    for _ in range(rounds):
        for lane in order.sample(lanes, len(lanes)):
            lane.run_batch()
    for lane in lanes:
        lane.close()
    ours = float(np.median(lanes[0].batches))  # the first row of the table
    records = []
    for lane in lanes:
        low, median, high = np.percentile(lane.batches, [25, 50, 75])
        records.append(
            {
                "name": lane.row.name,
                "runtime": f"{lane.row.package} {importlib.metadata.version(lane.row.package)}",
                "bar": lane.row.bar,
                "us": round(median * 1e6, 2),
                "iqr_us": round((high - low) * 1e6, 2),
                "times_ours": round(median / ours, 2),
                "max_error": lane.error,
            }
        )
    return records


def _show(report: dict[str, Any]) -> None:
    machine = report["machine"]
    print(f"\n{report['network']}; one core of {machine['cpu']}, {report['rounds']} rounds\n")
    header = ["one step with", "runtime", "µs", "IQR", "× ours", "max error"]
    rows = [
        [r["name"], r["runtime"], *(f"{r[key]:.1f}" for key in ("us", "iqr_us", "times_ours")), f"{r['max_error']:.0e}"]
        for r in report["rows"]
    ]
    print(table(header, rows), end="\n\n")
    for bar, wanted in BARS.items():
        best = min((r for r in report["rows"] if r["bar"] == bar), key=lambda r: float(r["us"]))
        verdict = "reached" if best["times_ours"] >= wanted else "MISSED"
        print(f"{bar} ({best['name']}): {best['times_ours']} times ours; the bar is {wanted:g}: {verdict}")


def main() -> None:
    """Make the models, measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a first look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements there, too")
    options = parser.parse_args()
    rounds = 30 if options.quick else 500
    os.environ.update(ONE_THREAD | QUIET)
    rows = [row for row in ROWS if _installed(row.package)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for make in (make_reference, make_stock_tflite, make_plain_onnx, convert_with_edgernn):
            _in_a_process_of_its_own(make, folder)
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        records = measure(rows, folder, rounds)
    report = {
        "network": f"2 x LSTM({UNITS}), {FEATURES} features, {OUTPUTS} outputs, one frame a step",
        "machine": asdict(describe_machine()),
        "rounds": rounds,
        "rows": records,
    }
    _show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _in_a_process_of_its_own(make: Callable[[Path], None], folder: Path) -> None:
    print(f"{make.__name__.replace('_', ' ')} …", file=sys.stderr)
    process = multiprocessing.get_context("spawn").Process(target=make, args=(folder,))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{make.__name__} ended with status {process.exitcode}")


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        print(f"{package} is not installed: its rows are left out", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    main()
