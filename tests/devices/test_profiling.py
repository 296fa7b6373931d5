"""Parts of profiling, without a board: rounds, differences, minutes, sensors, operators, the page."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgernn.artifact import Artifact
from edgernn.devices.boards.power import read_power_w
from edgernn.devices.boards.vitals import Vitals
from edgernn.devices.compare import main as compare_main
from edgernn.devices.profile import main as profile_main
from edgernn.devices.profile import read_duration
from edgernn.devices.profiling.conditions import Background
from edgernn.devices.profiling.difference import compare, expanded_tail, ratio_interval, student_quantile
from edgernn.devices.profiling.files import read_profiles, write_profiles, write_text
from edgernn.devices.profiling.histogram import Histogram
from edgernn.devices.profiling.matrix import front
from edgernn.devices.profiling.operators import read_events, time_operators
from edgernn.devices.profiling.report import report
from edgernn.devices.profiling.sustain import Sensors, memory_slope, sustain
from edgernn.devices.profiling.tell import tell
from edgernn.errors import FailureError, UsageError
from edgernn.measured import Conditions, Minute, Operator, Round, Sustained
from edgernn.profile import Machine, Profile, Timing

EDGERNN = [sys.executable, "-c", "import sys; from edgernn.cli import main; sys.exit(main())"]
PLAIN = Profile(
    artifact="word<b>s",
    digest="ab" * 32,
    format="tflite",
    scheme="int8",
    runtime="ai-edge-litert 2.3.0",
    threads=1,
    machine=Machine("Raspberry Pi 5", "CPU part 0xd0b", 4, "aarch64", "Linux 6.6", "3.11.2"),
    measured_at="2026-11-23T10:00:00+00:00",
    edgernn="0.1.0",
    timings=(Timing("step", 100, 5.0, 6.0, 7.0, 8.0, 9.0, 5.2),),
    period_us=10_000.0,
    deadline_misses=0,
    import_ms=20.0,
    open_ms=4.0,
    first_step_us=60.0,
    resident_bytes=50_000_000,
    runtime_bytes=20_000_000,
    model_bytes=100_000,
    snr_db=40.0,
)


def rounds(centre: float, count: int = 5, spread: float = 0.01, seed: int = 0) -> tuple[Round, ...]:
    rng = np.random.default_rng(seed)
    values = centre * rng.lognormal(0, spread, (count, 20))
    return tuple(Round({"process": 20.0, "first step": 0.1}, 100, tuple(row), tuple(3 * row)) for row in values)


class TestDifference:
    @pytest.mark.parametrize(
        ("share", "degrees", "expected"), [(0.975, 4, 2.7764), (0.995, 9, 3.2498), (0.9, 1, 3.0777)]
    )
    def test_student_as_in_the_tables(self, share: float, degrees: int, expected: float) -> None:
        assert student_quantile(share, degrees) == pytest.approx(expected, abs=1e-3)

    def test_few_rounds_widen_the_interval(self) -> None:
        tails = [expanded_tail(count, 95) for count in (5, 10, 30, 1000)]
        assert tails == sorted(tails)
        assert tails[-1] == pytest.approx(0.025, abs=1e-3)

    def test_same_distribution_is_seldom_told_apart(self) -> None:
        rng, wrong = np.random.default_rng(3), 0
        for _ in range(100):
            before, after = rng.lognormal(0, 0.05, (2, 5))
            low, high = ratio_interval(before, after, 95)
            wrong += not low <= 1 <= high
        assert wrong <= 10, "5 of 100 would be right; for few rounds it is rather on the safe side"

    @given(st.floats(0.1, 1e4), st.floats(1.1, 10), st.integers(5, 12), st.integers(0, 2**32 - 1))
    @settings(max_examples=15, deadline=None)
    def test_clear_difference_is_told_both_ways(self, centre: float, factor: float, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        fast = list(centre * rng.uniform(0.99, 1.01, count))
        slow = list(factor * centre * rng.uniform(0.99, 1.01, count))
        assert compare("x", "µs", fast, slow).verdict == "slower"
        told = compare("x", "µs", slow, fast)
        assert told.verdict == "faster"
        assert told.low <= told.ratio <= told.high

    def test_small_difference_counts_as_none(self) -> None:
        before = [1.0, 1.0001, 0.9999, 1.0, 1.0]
        after = [1.005 * value for value in before]
        assert compare("x", "µs", before, after, at_least=1).verdict == "no difference that can be told"
        assert compare("x", "µs", before, after, at_least=0).verdict == "slower"


class TestCompare:
    def files(self, folder: Path, *profiles: Profile) -> list[str]:
        paths = [str(folder / f"{number}.json") for number in range(len(profiles))]
        for path, profile in zip(paths, profiles, strict=True):
            write_profiles(path, [profile])
        return paths

    def test_verdicts_and_exit_status(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        slow, fast = replace(PLAIN, rounds=rounds(10)), replace(PLAIN, rounds=rounds(5, seed=1))
        paths = self.files(tmp_path, slow, fast)
        assert compare_main([*paths, "--json", str(tmp_path / "c.json")], "edgernn compare") == 0
        printed = capsys.readouterr().out
        assert re.search(r"step, p50 +µs +10.* -50\.\d% .*faster", printed)
        assert "Hesterberg 2015" in printed
        rows = json.loads((tmp_path / "c.json").read_text())["comparisons"][0]["rows"]
        assert {row["what"]: row["verdict"] for row in rows}["cold start: process"] == "no difference that can be told"
        assert compare_main(paths[::-1], "edgernn compare") == 1

    def test_other_machines_are_refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        other = replace(PLAIN.machine, board="Raspberry Pi 4")
        paths = self.files(
            tmp_path, replace(PLAIN, rounds=rounds(5)), replace(PLAIN, machine=other, rounds=rounds(9, seed=1))
        )
        with pytest.raises(UsageError, match=r"different kinds \(board: Raspberry Pi 5 and Raspberry Pi 4\)"):
            compare_main(paths, "edgernn compare")
        assert compare_main([*paths, "--across-machines"], "edgernn compare") == 1
        assert "slower" in capsys.readouterr().out

    def test_one_core_of_a_machine_is_that_machine(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pinned = replace(PLAIN, machine=replace(PLAIN.machine, cores=1), conditions=Conditions(0), rounds=rounds(5))
        assert compare_main(self.files(tmp_path, replace(PLAIN, rounds=rounds(5)), pinned), "edgernn compare") == 0
        assert "differs:  pinned: None and 0" in capsys.readouterr().out

    def test_too_few_rounds(self, tmp_path: Path) -> None:
        paths = self.files(tmp_path, replace(PLAIN, rounds=rounds(5)), replace(PLAIN, rounds=rounds(5, count=2)))
        with pytest.raises(UsageError, match=r"1\.json has 2 rounds, and a difference can be told from 5 on"):
            compare_main(paths, "edgernn compare")

    def test_matrices_are_compared_row_by_row(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        cases = [replace(PLAIN, threads=number, rounds=rounds(5, seed=number)) for number in (1, 2)]
        paths = [str(tmp_path / name) for name in ("a.json", "b.json")]
        for path in paths:
            write_profiles(path, cases)
        assert compare_main(paths, "edgernn compare") == 0
        assert capsys.readouterr().out.count("step, p50") == 2

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"profiles": 3}', '{"artifact": 1}', "\x00"])
    def test_files_that_are_no_profiles(self, content: str, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(FailureError, match=r"a\.json"):
            read_profiles(str(tmp_path / "a.json"))


@given(st.lists(st.floats(0.02, 1e8), min_size=1, max_size=200), st.floats(0.001, 1))
def test_quantiles_of_a_histogram(values: list[float], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    true = float(np.sort(values)[int(np.ceil(share * len(values))) - 1])
    assert histogram.quantile(share) == pytest.approx(true, rel=0.012)


def minutes(*megabytes: float) -> list[Minute]:
    return [
        Minute(60, 100, 0, 5, 6, 7, 8, int(value * 1e6), 2400, 60.0 + n, 0x50000) for n, value in enumerate(megabytes)
    ]


def test_slope_of_memory() -> None:
    slope, error = memory_slope(minutes(30, 50, 51, 52, 53))
    assert slope == pytest.approx(60e6), "a megabyte a minute, the first one left out"
    assert error == pytest.approx(0, abs=1)
    assert memory_slope(minutes(50, 50, 50)) == (None, None)


def test_minutes_hold_what_the_sensors_said(tmp_path: Path) -> None:
    class Scripted(Sensors):
        def _read(self) -> tuple[Vitals, float | None]:
            return Vitals(61.0, 0x4, 1, 1_500_000_000), 3.5

    calls: list[int] = []
    found = sustain(calls.append, 0.5, 0.01, sensors=Scripted(period_s=0.01), minute_s=0.25)
    assert len(found.minutes) == 2
    assert calls == list(range(len(calls)))
    assert 40 <= len(calls) == sum(minute.steps for minute in found.minutes) <= 51
    first = found.minutes[0]
    assert (first.temperature_c, first.throttled, first.clock_mhz, first.power_w) == (61.0, 4, 1500.0, 3.5)


def test_control_c_ends_minutes_and_keeps_them() -> None:
    def step(index: int) -> None:
        if index == 30:
            raise KeyboardInterrupt

    found = sustain(step, 60, 0.005, minute_s=0.1)
    assert found.stopped
    assert sum(minute.steps for minute in found.minutes) == 30
    assert found.minutes[-1].seconds < 0.1, "the last one is what there was of it"

    def at_once(index: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sustain(at_once, 60, None)


def test_power_of_a_jetson_and_of_a_plain_sensor(tmp_path: Path) -> None:
    assert read_power_w(tmp_path) is None
    jetson = tmp_path / "sys/class/hwmon/hwmon3"
    jetson.mkdir(parents=True)
    rails = {1: ("VDD_IN", 5000, 800), 2: ("VDD_CPU_GPU_CV", 5000, 200), 3: ("VDD_SOC", 5000, 300)}
    for number, (label, millivolts, milliamperes) in rails.items():
        (jetson / f"in{number}_label").write_text(f"{label}\n")
        (jetson / f"in{number}_input").write_text(f"{millivolts}\n")
        (jetson / f"curr{number}_input").write_text(f"{milliamperes}\n")
    assert read_power_w(tmp_path) == pytest.approx(4.0), "the rail that feeds the board, not the sum"
    (jetson / "in1_label").unlink()
    assert read_power_w(tmp_path) == pytest.approx(6.5)
    (jetson / "power1_input").write_text("1500000\n")
    assert read_power_w(tmp_path) == pytest.approx(8.0)


def test_background(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  100 0 100 800 0 0 0 0 0 0\n")
    for core, governor in enumerate(("ondemand", "ondemand", "performance")):
        path = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor"
        path.parent.mkdir(parents=True)
        path.write_text(f"{governor}\n")
    background = Background(1, tmp_path)
    (tmp_path / "proc/stat").write_text("cpu  50000 0 10100 60800 0 0 0 0 0 0\n")
    found = background.conditions()
    assert (found.pinned, found.governors, found.busy_before) == (1, ("ondemand", "performance"), None)
    assert found.busy_others == pytest.approx(0.5, abs=0.01)


def test_events_of_onnxruntime() -> None:
    def node(name: str, kind: str, us: int) -> dict[str, object]:
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": us, "args": {"op_name": kind}}

    events = [{"cat": "Session", "name": "model_run", "dur": 99}]
    events += [node(name, "Mul", us) for us in (900, 2, 4) for name in ("a", "b")] + [
        node("c", "Conv", us) for us in (9, 2, 2)
    ]
    assert read_events(events, warm_up=1) == (Operator("Mul", 2, 6.0, 0.75), Operator("Conv", 1, 2.0, 0.25))


def test_operators_of_litert(energy_artifact: Artifact) -> None:
    found, remark = time_operators(energy_artifact.model("tflite"), "litert")
    assert sum(item.nodes for item in found) >= 3, remark
    assert any("Fully Connected" in item.kind or "Multiply" in item.kind for item in found)
    told = re.search(r"([\d.]+) µs are told of a step of ([\d.]+) µs \(([\d.]+) µs without it\)", remark)
    assert told is not None
    assert sum(item.us for item in found) == pytest.approx(float(told[1]), abs=0.1)
    assert float(told[1]) <= float(told[2]), "whole microseconds that were cut off are never more than the step"


def test_operators_are_not_told_of_what_does_not_run(energy_artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "step.tflite").write_bytes(b"junk")
    model = replace(energy_artifact.model("tflite"), path=tmp_path / "step.tflite")
    assert time_operators(model, "litert")[0] == ()
    assert "LiteRT's profiler failed (exit status" in time_operators(model, "litert")[1]
    assert "carries no profiler" in time_operators(model, "tflite-runtime")[1]


def test_front_of_time_size_and_truth() -> None:
    def case(us: float, size: int, snr: float) -> Profile:
        return replace(PLAIN, timings=(Timing("step", 1, us, us, us, us, us, us),), model_bytes=size, snr_db=snr)

    cases = [
        case(5, 100, 40),
        case(5.1, 100, 40),
        case(6, 100, 40),
        case(9, 50, 20),
        case(9, 60, 60),
        case(9, 98, 60.5),
    ]
    assert front(cases) == [True, True, False, True, True, False]


FULL = replace(
    PLAIN,
    rounds=rounds(5),
    operators=(Operator("Conv<1>", 2, 3.0, 1.0),),
    sustained=Sustained(True, tuple(minutes(50, 51, 51, 51, 51)), 1000.0, 10.0),
    conditions=Conditions(2, ("ondemand",), 0.1, 0.02, 0.01),
    command=("edgernn", "profile", "word<b>s"),
    packages={"numpy": "2.4.6"},
)


def test_page_is_whole_and_asks_nobody() -> None:
    page = report([FULL, replace(FULL, threads=2, snr_db=39.0)])
    assert "<script" not in page
    assert "http" not in page
    assert "word<b>s" not in page, "names are text"
    pictures = re.findall(r"<svg.*?</svg>", page)
    assert len(pictures) == 1 + 2 * 5  # minutes: times, heat, clock, memory; windows
    assert page.count('<div class="bars">') == 2 * 2  # cold start, operators
    ElementTree.fromstring(page.partition("<body>")[2].partition("</body>")[0].join(("<body>", "</body>")))
    for picture in pictures:
        ElementTree.fromstring(picture)
        assert "nan" not in picture


def test_text_has_every_part_and_json_keeps_it(tmp_path: Path) -> None:
    text = tell(FULL)
    for part in ("pinned to core 2", "cold start of 5", "Conv<1>", "has been: under-voltage, throttled", "MB an hour"):
        assert part in text
    write_profiles(str(tmp_path / "a.json"), [FULL])
    assert read_profiles(str(tmp_path / "a.json")) == [FULL]


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400)])
def test_durations(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "b"], "are measured with --matrix"),
        (["a", "--threads", "1,2"], "are measured with --matrix"),
        (["a", "--threads", "0"], "--threads 0: expected"),
        (["a", "--sustain", "nan"], "--sustain nan: expected"),
        (["a", "--sustain", "0m"], "--sustain 0m: expected"),
        (["a", "--wheels", "w"], "--wheels is for boards"),
        (["a", "--on", "x", "--on", "x"], "the same board twice"),
        (["a", "--on", "x", "--identity", "/nowhere/key"], "--identity /nowhere/key: there is no such file"),
        (["a", "--on", "x", "--picture", "p.png"], "--report draws any"),
        (["a", "--json", "/nowhere/x.json"], "its folder does not exist"),
        (["a", "--pin", "4000"], "--pin 4000"),
    ],
)
def test_options_that_contradict(words: list[str], said: str, energy_artifact: Artifact) -> None:
    words = [str(energy_artifact.path) if word == "a" else word for word in words]
    with pytest.raises(UsageError, match=said):
        profile_main(words, "edgernn profile")


@pytest.mark.slow
def test_matrix_of_runtimes_and_threads(energy_artifact: Artifact, tmp_path: Path) -> None:
    kept, page = tmp_path / "m.json", tmp_path / "m.html"
    words = ["--matrix", "--threads", "1,2", "--steps", "300", "--seconds", "0.1", "--operators", "--sustain", "1s"]
    words += ["--rounds", "1"]
    command = [*EDGERNN, "profile", str(energy_artifact.path), *words, "--json", str(kept), "--report", str(page)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = read_profiles(str(kept))
    runtimes = [(item.runtime.split()[0], item.threads) for item in found]
    assert runtimes == [(name, number) for name in ("ai-edge-litert", "onnxruntime") for number in (1, 2)]
    assert "energy, litert, 1 thread\n" in result.stderr
    assert all(len(item.rounds) == 1 and item.sustained for item in found)
    assert all(item.operators for item in found)
    assert "LiteRT's own profiler" in found[0].remarks[0]
    assert "ONNX Runtime's own profiler" in found[2].remarks[0]
    assert found[0].rounds[0].cold_ms["until tenth step"] > found[0].rounds[0].cold_ms["runtime"] > 1
    assert "★" in result.stdout


def test_a_full_disk_is_a_failure_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "before.json").write_text("of yesterday")
    with limited_file_size(1000), pytest.raises(FailureError, match=r"before\.json cannot be written: File too large"):
        write_text(str(tmp_path / "before.json"), "x" * 5000)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("before.json", "of yesterday")]
    with pytest.raises(UsageError, match="cannot be written: Is a directory"):
        write_text(str(tmp_path), "x")


@contextlib.contextmanager
def limited_file_size(most: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
