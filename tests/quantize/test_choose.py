"""edgernn convert --optimize-for this-machine: what is tried, what is chosen, and what is said of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from edgernn.artifact import Artifact
from edgernn.cli import main
from edgernn.errors import ConversionError
from edgernn.quantize.choose import Tried, best, candidates, front, tell
from edgernn.quantize.convert import Prepared
from edgernn.quantize.parity import Distance
from edgernn.quantize.proof import Built, Verdict
from edgernn.quantize.schemes import SCHEMES
from edgernn.spec import StreamSpec, TensorSpec
from tests.quantize.networks import chain, randomized

Capture = pytest.CaptureFixture[str]
FLOAT = SCHEMES["float32"]


def tried(us: float, size: int, snr_db: float, reason: str = "") -> Tried:
    spec = StreamSpec((TensorSpec("x", (1, 1, 1)),), (TensorSpec("y", (1, 1, 1)),), ())
    distance = Distance("y", 0.0, 0.0, snr_db, 1.0, 1.0, 1, 0)
    return Tried(
        "onnx", FLOAT, "kept", Built("onnx", FLOAT, b"0" * size, spec), Verdict([distance], None), reason, us, 0.1
    )


ROWS = st.lists(
    st.builds(tried, st.integers(1, 9).map(float), st.integers(1, 9), st.integers(10, 14).map(float)), min_size=1
)


@given(ROWS)
def test_on_the_front_is_what_nothing_beats(rows: list[Tried]) -> None:
    def beats(other: Tried, row: Tried) -> bool:
        better = (other.us < row.us, other.size < row.size, other.snr_db > row.snr_db)
        worse = (other.us > row.us, other.size > row.size, other.snr_db < row.snr_db)
        return any(better) and not any(worse)

    fronted = front(rows)
    assert fronted
    for row in rows:
        assert any(item is row for item in fronted) != any(beats(other, row) for other in fronted)


@given(ROWS, st.sampled_from(["speed", "size"]))
def test_the_chosen_one_is_what_its_rule_says(rows: list[Tried], goal: str) -> None:
    chosen = best([*rows, tried(0.1, 0, 99.0, "does not convert")], goal)
    assert any(row is chosen for row in rows)
    for row in rows:
        if goal == "speed":
            assert chosen.us <= 1.05 * row.us
            assert row.us > 1.05 * min(item.us for item in rows) or row.size >= chosen.size
        else:
            assert chosen.size <= 1.05 * row.size
            assert row.size > 1.05 * min(item.size for item in rows) or row.us >= chosen.us


def test_candidates_are_all_that_the_formats_have() -> None:
    names = [item.name for item in candidates(("tflite", "onnx"), list(SCHEMES.values()))]
    assert len(set(names)) == len(names)
    for kind in ("tflite", "onnx"):
        for scheme in SCHEMES.values():
            assert any(name.startswith(f"{kind} {scheme.name},") for name in names) == (kind in scheme.formats)
    assert {"onnx float32, cells kept", "onnx float32, cells apart", "onnx int8, cells apart"} <= set(names)
    assert not {"tflite float32, cells kept", "onnx int8, cells kept"} & set(names)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "words.keras"
    randomized(chain(layers.GRU(24, return_sequences=True), layers.Dense(3), features=12)).save(path)
    return path


def convert(*arguments: object) -> int:
    return main(["convert", *map(str, arguments)])


def test_the_best_becomes_the_artifact_and_the_table_goes_with_it(
    model: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Prepared.build

    def partly(self: Prepared, kind: str, scheme: Any, cells: str = "kept") -> Built:
        if scheme.name == "int8":
            raise ConversionError("this runtime refuses it")
        return build(self, kind, scheme, cells)

    monkeypatch.setattr(Prepared, "build", partly)
    words = ("--to", "onnx", "--optimize-for", "this-machine,size", "--tolerance", "1,snr=25")
    assert convert(model, "-o", tmp_path / "best", *words) == 0
    said = capsys.readouterr()
    artifact = Artifact.open(tmp_path / "best")
    facts = artifact.conversion["optimized_for"]
    rows = facts["candidates"]
    assert {row["scheme"] for row in rows} == set(SCHEMES)
    (chosen,) = (row for row in rows if row.get("chosen"))
    assert chosen["on_front"]
    assert chosen["scheme"] == artifact.conversion["scheme"] == artifact.programs["step"]["onnx"].scheme
    within = [row for row in rows if "reason" not in row]
    assert len(within) > 3
    assert all(row["us"] > 0 and row["spread_us"] >= 0 and row["snr_db"] >= 25 for row in within)
    assert chosen["bytes"] <= 1.05 * min(row["bytes"] for row in within)
    assert chosen["bytes"] == (tmp_path / "best" / "step.onnx").stat().st_size
    assert [row["reason"] for row in rows if row["scheme"] == "int8"] == ["this runtime refuses it"]
    assert any("SNR" in row["reason"] and "us" not in row for row in rows if row["scheme"] == "int4"), "it is too far"
    assert tell(facts) in said.out
    assert "no: this runtime refuses it" in said.out
    assert "1 of 10: onnx float32, cells kept" in said.err


def test_a_tolerance_is_for_all_and_a_scheme_for_one(model: Path, tmp_path: Path, capsys: Capture) -> None:
    words = (model, "-o", tmp_path / "best", "--to", "onnx", "--optimize-for", "this-machine", "-q")
    assert convert(*words, "--quantize", "int4", "--tolerance", "9,snr=1") == 0
    artifact = Artifact.open(tmp_path / "best")
    assert [row["scheme"] for row in artifact.conversion["optimized_for"]["candidates"]] == ["int4"]
    assert artifact.parity["onnx"]["tolerance"]["min_snr_db"] == 1
    capsys.readouterr()
    assert convert(*words, "--quantize", "int8", "--tolerance", "1e-9") == 1
    assert "no candidate can be chosen: onnx int8, cells apart: error" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["", "speed", "this-machine,memory", "this-machine,size,speed"])
def test_a_goal_that_is_none_is_refused(wrong: str, model: Path, tmp_path: Path, capsys: Capture) -> None:
    assert convert(model, "-o", tmp_path / "best", "--optimize-for", wrong) == 2
    assert "expected this-machine, or this-machine,size" in capsys.readouterr().err


def test_where_there_are_no_cells_taking_them_apart_is_the_same(tmp_path: Path) -> None:
    randomized(chain(layers.Dense(40), layers.Dense(3), features=12)).save(tmp_path / "plain.keras")
    words = ("--to", "onnx", "--quantize", "float32", "--optimize-for", "this-machine", "-q")
    assert convert(tmp_path / "plain.keras", "-o", tmp_path / "best", *words) == 0
    first, second = Artifact.open(tmp_path / "best").conversion["optimized_for"]["candidates"]
    assert first["chosen"]
    assert second["reason"] == "the same file as onnx float32, cells kept"


@pytest.mark.slow
def test_formats_compete(model: Path, tmp_path: Path) -> None:
    assert convert(model, "-o", tmp_path / "best", "--optimize-for", "this-machine", "-q") == 0
    artifact = Artifact.open(tmp_path / "best")
    rows = artifact.conversion["optimized_for"]["candidates"]
    for kind in ("tflite", "onnx"):
        known = {scheme.name for scheme in SCHEMES.values() if kind in scheme.formats}
        assert {row["scheme"] for row in rows if row["format"] == kind} == known
    (chosen,) = (row for row in rows if row.get("chosen"))
    assert list(artifact.programs["step"]) == [chosen["format"]]
    assert chosen["us"] <= 1.05 * min(row["us"] for row in rows if "us" in row)
