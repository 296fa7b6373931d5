"""How far a bounded step is from its source: measured, printed, drawn, and what its files are compared with."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import layers

from edgernn.approximation import Row
from edgernn.artifact import Artifact
from edgernn.errors import UsageError
from edgernn.quantize.approximation import BoundedStep, measure_approximation, variants
from edgernn.quantize.bounds import Bounds, Chunked, Window
from edgernn.quantize.cli import main
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.oracle import KerasOracle
from edgernn.quantize.parity import expected_outputs
from edgernn.quantize.streaming import stream
from tests.quantize.networks import chain, keras_outputs, randomized, streams_for


def both_ways() -> Any:
    return randomized(chain(layers.Bidirectional(layers.GRU(4, return_sequences=True), name="both"), layers.Dense(3)))


def rows_of(model: Any, bounds: Bounds, length: int = 96) -> tuple[str, list[Row]]:
    graph = from_keras(model)
    frames = streams_for(model, length)
    make = partial(stream, graph)
    return measure_approximation(make, make(bounds=bounds), bounds, KerasOracle(model), frames, None)[:2]


def test_more_look_ahead_is_nearer_and_later() -> None:
    varied, rows = rows_of(both_ways(), Bounds(Chunked(2, 12)))
    assert varied == "look-ahead"
    assert [row.value for row in rows] == [0, 1, 2, 4, 8, 12]
    assert [row.latency_frames for row in rows] == [0, 1, 2, 4, 8, 12]
    nearness = [row.outputs[0].snr_db for row in rows]
    assert nearness == sorted(nearness), "the forgetting of this layer"
    assert nearness[-1] > nearness[0] + 20


def test_the_distance_is_that_from_keras() -> None:
    model, bounds = both_ways(), Bounds(Chunked(4, 4))
    (x,) = streams_for(model, 96)
    _, rows = rows_of(model, bounds)
    numbers, values = BoundedStep(stream(from_keras(model), bounds=bounds)).expected([x])[0]
    truth = keras_outputs(model, [x[None]])[0][0]
    assert numbers.tolist() == list(range(1, 24))
    error = np.abs(values.reshape(-1, 3) - truth[: 96 - 4])
    assert rows[-1].outputs[0].max_abs == pytest.approx(error.max(), rel=1e-5)
    power = truth[: 96 - 4].astype(np.float64).var(axis=0).mean()
    assert rows[-1].outputs[0].snr_db == pytest.approx(
        10 * np.log10(power / np.mean(error.astype(np.float64) ** 2)), abs=0.1
    )


def test_a_pool_behind_it_is_asked_for_beginnings() -> None:
    both = layers.Bidirectional(layers.GRU(4, return_sequences=True))
    model = randomized(chain(both, layers.GlobalAveragePooling1D()))
    _, rows = rows_of(model, Bounds(Chunked(2, 4), edges=True))
    assert [row.value for row in rows] == [0, 1, 2, 4], "without a look-ahead there are no edges, and no complaint"


@pytest.mark.parametrize("head", [[], [layers.GlobalAveragePooling1D()]])
@pytest.mark.parametrize("batch", [1, 2])
def test_where_nothing_is_cut_off_the_bounded_step_is_the_source(head: list[Any], batch: int) -> None:
    """The two truths that files are compared with are then one: in what they give, where, and in which shape."""
    model = randomized(chain(layers.Conv1D(4, 3), *head, layers.Dense(2)))
    step = stream(from_keras(model), 2, batch)
    (x,) = streams_for(model, 20) if batch == 1 else [np.stack([streams_for(model, 20, n)[0] for n in (1, 2)])]
    ((numbers, values),) = BoundedStep(step).expected([x])
    ((asked, truth),) = expected_outputs(KerasOracle(model), step, [x])
    assert values.shape[1:] == truth.shape[1:]
    np.testing.assert_allclose(values[np.isin(numbers, asked)], truth, atol=1e-5)
    assert set(asked) <= set(numbers)


@pytest.mark.parametrize(
    ("bounds", "varied", "values"),
    [
        (Bounds(Chunked(4, 6), attention=Window(9)), "look-ahead", [0, 1, 2, 4, 6]),
        (Bounds(attention=Window(9, 2)), "look-ahead", [0, 1, 2]),
        (Bounds(attention=Window(4)), "attention window", [1, 2, 4]),
        (Bounds(pooling_window=5), "pooling window", [1, 2, 4, 5]),
        (Bounds(Chunked(3, 0)), "chunk", [1, 2, 3]),
        (Bounds(edges=True), "edges", [0]),
    ],
)
def test_what_is_varied(bounds: Bounds, varied: str, values: list[int]) -> None:
    name, tried = variants(bounds)
    assert (name, [value for value, _ in tried]) == (varied, values)
    assert tried[-1][1] == bounds


# the command


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("model") / "words.keras"
    both_ways().save(path)
    return path


def convert(*arguments: object) -> int:
    return main([*map(str, arguments), "--to", "onnx", "--quantize", "float32", "--quiet"], "edgernn convert")


@pytest.mark.slow
def test_convert_prints_draws_and_keeps_it(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "look-ahead.png"
    assert (
        convert(model_file, "-o", tmp_path / "a", "--bidirectional", "chunk=2,lookahead=4", "--picture", picture) == 0
    )
    printed = capsys.readouterr().out
    assert "proven against its own bounded step in float32" in printed
    assert re.search(r"both/backward_gru\w*: blocks of 2 frames, 4 frames of look-ahead\n", printed)
    assert picture.read_bytes().startswith(b"\x89PNG")
    artifact = Artifact.open(tmp_path / "a")
    assert artifact.approximation is not None
    assert artifact.approximation.describe() in printed
    assert [row.value for row in artifact.approximation.rows] == [0, 1, 2, 4]
    assert artifact.parity["onnx"]["against"] == "bounded step in float32"
    assert artifact.model("onnx").spec.latency_frames == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--picture", "a.png"], "--picture shows what a bounded form costs, and nothing is bounded"),
        (["--bidirectional", "chunk=2", "--picture", "a.doc"], "--picture a.doc: expected a name that ends in"),
        (["--bidirectional", "chunk=2", "--picture", "nowhere/a.png"], "nowhere does not exist"),
    ],
)
def test_a_picture_that_cannot_be_is_refused_first(
    model_file: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        convert(model_file, "-o", tmp_path / "a", *arguments)
    assert not (tmp_path / "a").exists()
