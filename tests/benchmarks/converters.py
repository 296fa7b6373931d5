"""EdgeRNN's converter against the others: rolled recurrent Keras models, each in every scheme.

    python -m tests.benchmarks.converters [--models LSTM,GRU] [--tools EdgeRNN] [--json FILE]   (or: make compare)

Each conversion runs in a process of its own, because several end in a crash. A file counts as working if it loads,
runs, differs from Keras by at most 0.1 (of a softmax) and, in an integer scheme, is at most half as large as the
weights in float32: one that leaves the recurrent weights in float has not been quantized. The time of a new frame is
that of a step, or of a whole window of 49 frames again where the file cannot carry its state; it is the median of
rounds in which all files of one model take turns. Errors are the worst over 500 and over 5,000 frames, against Keras
on the whole sequence. Takes about 25 minutes; tf2onnx's rows are left out where that is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.text import table
from tests.benchmarks.rolled import LONG, MODELS, SHORT, WINDOW, build, frames
from tests.benchmarks.tools import BOUNDED, TOOLS, Converted, Tool

Array = NDArray[np.float32]
Result = dict[str, Any]
PATIENCE_S = 300
MOST_ERROR, MOST_SIZE = 0.1, 0.5
ROUNDS, BATCH_S = 60, 0.002
INTEGER = ("int8", "16x8", "dynamic-int8", "weights-int8", "integer-only", "int4")
SHOWN = ("LSTM", "GRU")
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1"}


class Attempt:
    """One model through one tool in one scheme, in a process that then waits to be timed."""

    def __init__(self, tool: Tool, model: str, scheme: str, folder: Path) -> None:
        self.result: Result = {"tool": tool.name, "model": model, "scheme": scheme}
        self.times: list[float] = []
        spawn = multiprocessing.get_context("spawn")
        self._pipe, far_end = spawn.Pipe()
        folder.mkdir()
        self._log = folder / "log"
        arguments = (tool.name, model, scheme, folder, far_end)
        self._process = spawn.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        far_end.close()
        self.result.update(self._answer())

    def _answer(self) -> Result:
        try:
            if self._pipe.poll(PATIENCE_S):
                answer: Result = self._pipe.recv()
                return answer
            self._process.kill()
            return {"error": f"did not end within {PATIENCE_S} s"}
        except EOFError:
            self._process.join()
            return {"error": f"crashed (signal {-self._process.exitcode})" if self._process.exitcode else "gave up"}

    def time_once(self) -> None:
        """Take the time of a batch, where the file runs."""
        if "error" in self.result:
            return
        self._pipe.send("time")
        self.times.append(self._pipe.recv())

    def close(self) -> Result:
        """End the process and return what was found."""
        if self.times:
            low, median, high = np.percentile(self.times, [25, 50, 75])
            self.result |= {"us": median * 1e6, "iqr_us": (high - low) * 1e6}
        self._process.kill()
        self._process.join()
        return self.result


def _serve(tool_name: str, model: str, scheme: str, folder: Path, pipe: Connection) -> None:
    sys.stdout = sys.stderr = (folder / "log").open("w")
    os.dup2(sys.stderr.fileno(), 2)
    tool = next(tool for tool in TOOLS if tool.name == tool_name)
    try:
        made = tool.convert(model, scheme, folder)
        size, parameters = made.path.stat().st_size, build(model).count_params()
        pipe.send({"bytes": size, "parameters": parameters, "steps": made.steps, **_errors(made, model)})
    except Exception as error:  # whatever a converter says, at length
        pipe.send({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"})
        return
    calls = 1
    while _seconds(made.once, calls) < BATCH_S:
        calls *= 2
    while pipe.recv() == "time":
        pipe.send(_seconds(made.once, calls) / calls / made.frames_per_call)


def _seconds(once: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        once()
    return time.perf_counter() - start


def _errors(made: Converted, model: str) -> dict[str, float | None]:
    """Return the worst error over a short and a long stream, or over the one window that a file takes."""
    source = build(model)
    if made.stream is None:
        assert made.window is not None
        x = frames(WINDOW)
        return {"window": _worst(made.window(x), source.predict(x[None], verbose=0)[0])}
    found: dict[str, float | None] = {}
    for name, length in (("short", SHORT), ("long", LONG)):
        x = frames(length)
        found[name] = _worst(made.stream(x), source.predict(x[None], verbose=0)[0])
    return found


def _worst(found: Array, truth: Array) -> float:
    """Compare what both have; a summary of the stream is compared at its end."""
    if truth.ndim == 1:
        return float(np.abs(found[-1] - truth).max())
    length = min(len(found), len(truth))
    return float(np.abs(found[:length] - truth[:length]).max())


def verdict(result: Result) -> str:
    """Return "works", or in a few words why not."""
    if "error" in result:
        return str(result["error"]).split(":")[0]
    worst = max(result[key] for key in ("short", "long", "window") if key in result)
    if not worst <= MOST_ERROR:
        return f"wrong by {worst:.2g}"
    if result["scheme"] in INTEGER and result["bytes"] > MOST_SIZE * 4 * result["parameters"]:
        return "left in float"
    return "works"


def compare(tools: Sequence[Tool], models: Sequence[str]) -> list[Result]:
    """Try each tool and scheme on each model; time the files of one model in turns."""
    results = []
    for model in models:
        with tempfile.TemporaryDirectory() as name:
            attempts: list[Attempt] = []
            for tool in tools:
                for scheme in tool.schemes:
                    print(f"{model}: {tool.name}, {scheme} …", file=sys.stderr, flush=True)
                    attempts.append(Attempt(tool, model, scheme, Path(name, str(len(attempts)))))
            for _ in range(ROUNDS):
                for attempt in attempts:
                    attempt.time_once()
            found = [attempt.close() for attempt in attempts]
        results += [{**item, "verdict": verdict(item)} for item in found]
    return results


def _counts(results: Sequence[Result]) -> str:
    keys = list(dict.fromkeys((item["tool"], item["scheme"]) for item in results))
    rows = []
    for tool, scheme in keys:
        verdicts = [item["verdict"] for item in results if (item["tool"], item["scheme"]) == (tool, scheme)]
        others = sorted({word for word in verdicts if word != "works"})
        rows.append([tool, scheme, f"{verdicts.count('works')} of {len(verdicts)}", "; ".join(others)])
    return table(["converter", "scheme", "works", "the others"], rows)


def _details(results: Sequence[Result], model: str) -> str:
    rows = []
    for item in (item for item in results if item["model"] == model):
        error = [f"{item[key]:.1e}" if item.get(key) is not None else "-" for key in ("short", "long")]
        size, us = item.get("bytes"), item.get("us")
        how = "" if us is None else "step" if item["steps"] else "window"
        rows.append(
            [
                item["tool"], item["scheme"], item["verdict"], "-" if size is None else f"{size / 1000:.0f}",
                how, "-" if us is None else f"{us:.1f}", "-" if us is None else f"{item['iqr_us']:.1f}", *error,
            ]
        )  # fmt: skip
    header = ["converter", "scheme", "", "KB", "a frame costs a", "µs", "IQR", f"error, {SHORT}", f"error, {LONG}"]
    return table(header, rows)


def main() -> None:
    """Compare, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="", metavar="NAMES", help=f"of {', '.join(MODELS)} (default: all)")
    parser.add_argument("--tools", default="", metavar="TEXT", help="those with this in their name (default: all)")
    parser.add_argument("--schemes", default="", metavar="NAMES", help="such as int8,16x8 (default: each tool's own)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements there, too")
    options = parser.parse_args()
    os.environ.update(QUIET)
    models = [name for name in MODELS if not options.models or name in options.models.split(",")]
    tools = [_only(tool, options.schemes) for tool in TOOLS if options.tools in tool.name and _installed(tool)]
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    results = compare(tools, models)
    print(
        f"\nOf {len(models)} rolled Keras models ({', '.join(models)}), bidirectional ones with {' '.join(BOUNDED)}:\n"
    )
    print(_counts(results))
    for model in SHOWN:
        if model in models:
            print(f"\n{model} of 128 units, 40 features, 12 outputs:\n\n{_details(results, model)}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _only(tool: Tool, schemes: str) -> Tool:
    return replace(tool, schemes=tuple(name for name in tool.schemes if not schemes or name in schemes.split(",")))


def _installed(tool: Tool) -> bool:
    found = not tool.needs or importlib.util.find_spec(tool.needs) is not None
    if not found:
        print(f"{tool.needs} is not installed: {tool.name} is left out", file=sys.stderr)
    return found


if __name__ == "__main__":
    main()
