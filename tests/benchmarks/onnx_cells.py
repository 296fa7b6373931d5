"""One step of a recurrent layer in ONNX Runtime, float operator against every scheme, over sizes.

    python -m tests.benchmarks.onnx_cells [--cell GRU|LSTM|RNN] [--units 64,128,...] [--rounds N] [--json FILE]

The layer reads 40 features a frame. All files of a size are open in this one process and take turns, for a
millisecond each, inputs, outputs and states bound, one thread. Read the ratios to the operator: they are those of the
low quartiles, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgernn.machine import describe_machine
from edgernn.quantize.calibrate import observe
from edgernn.quantize.cells import decompose_cells
from edgernn.quantize.graph import Builder
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.simplify import simplify
from edgernn.quantize.stepping import invoke_onnx, steps
from edgernn.quantize.stopwatch import bare, in_turns
from edgernn.quantize.streaming import stream
from edgernn.quantize.to_onnx import to_onnx
from edgernn.spec import StreamSpec
from edgernn.text import table

FEATURES, STEPS = 40, 500
GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}


def layer(cell: str, units: int, reset_after: bool) -> ir.Model:
    """Return the sequence graph of one layer with weights of the size that trained ones have."""
    random, gates, builder = np.random.default_rng(0), GATES[cell] * units, Builder(cell)

    def weights(*shape: int, scale: float) -> ir.Value:
        return builder.constant((random.normal(size=shape) * scale).astype(np.float32), "weights")

    frames = builder.op("Transpose", builder.input("frames", ("batch", "time", FEATURES)), perm=[1, 0, 2])
    constants = [
        weights(1, gates, FEATURES, scale=0.3),
        weights(1, gates, units, scale=units**-0.5),
        weights(1, 2 * gates, scale=0.1),
    ]
    attributes = {"hidden_size": units} | ({"linear_before_reset": int(reset_after)} if cell == "GRU" else {})
    every = builder.ops(cell, [frames, *constants], 3 if cell == "LSTM" else 2, attributes)[0]
    flat = builder.op("Squeeze", every, builder.constant([1], "directions"))
    builder.output(builder.op("Transpose", flat, perm=[1, 0, 2]), "outputs")
    return builder.finish()


def measure(cell: str, units: int, reset_after: bool, rounds: int) -> list[dict[str, Any]]:
    """Return a record for each scheme, the float operator first."""
    step = stream(layer(cell, units, reset_after))
    kept = replace(step, model=simplify(step.model))
    apart = replace(step, model=simplify(decompose_cells(step.model)))
    frames = np.random.default_rng(1).normal(size=(STEPS, FEATURES)).astype(np.float32)
    ranges = observe(apart, [[frames]])
    files = {name: to_onnx(kept, apart, kept.spec(), scheme, ranges) for name, scheme in SCHEMES.items()}
    times = in_turns({name: bare(content, "onnx", spec) for name, (content, spec) in files.items()}, rounds)
    truth = _outputs(*files["float32"], frames)
    quiet = {name: float(np.percentile(item, 25)) for name, item in times.items()}
    return [
        {
            "cell": cell,
            "units": units,
            "scheme": name,
            "bytes": len(files[name][0]),
            "us": round(quiet[name], 2),
            "us_median": round(float(np.median(times[name])), 2),
            "times_operator": round(quiet[name] / quiet["float32"], 3),
            "max_error": float(np.abs(_outputs(*files[name], frames) - truth).max()),
        }
        for name in files
    ]


def _outputs(content: bytes, spec: StreamSpec, frames: Any) -> Any:
    return np.stack([step[spec.outputs[0].name].ravel() for step in steps(invoke_onnx(content), spec, [frames])])


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", choices=GATES, default="GRU")
    parser.add_argument("--units", default="64,128,256,384,512", help="sizes (default: %(default)s)")
    parser.add_argument("--reset-before", action="store_true", help="the GRU of the paper, not that of cuDNN and Keras")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements there, too")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    records = []
    for units in map(int, options.units.split(",")):
        records += measure(options.cell, units, not options.reset_before, options.rounds)
    print(f"{options.cell} on {FEATURES} features, one core of {describe_machine().cpu}, {options.rounds} rounds\n")
    header = ["units", "scheme", "KB", "µs", "median", "× operator", "max error"]
    rows = [
        [str(r["units"]), r["scheme"], f"{r['bytes'] / 1000:.1f}", f"{r['us']:.1f}", f"{r['us_median']:.1f}",
         f"{r['times_operator']:.2f}", f"{r['max_error']:.0e}"]
        for r in records
    ]  # fmt: skip
    print(table(header, rows))
    if options.json:
        options.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
