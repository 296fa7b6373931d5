from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from edgernn.errors import DataError
from edgernn.train.fit import CHECKPOINT, Progress, fit, logits_of
from edgernn.train.models import build_model
from edgernn.train.recipe import FitRecipe, ModelRecipe

RECIPE = FitRecipe(epochs=4, batch=16, examples=64, learning_rate=0.03, warmup_epochs=0.5, average=0.7)


def streams(epoch: int, number: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Streams of noise; in class 1, the last frames are louder."""
    random = np.random.default_rng((epoch, number))
    classes = random.integers(0, 2, 16)
    frames = random.normal(0, 1, (16, 12, 3)).astype(np.float32)
    frames[:, 6:] += 2.0 * classes[:, None, None]
    return frames, classes


def make_batch(epoch: int, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    frames, classes = streams(epoch, number)
    return frames, np.eye(2, dtype=np.float32)[classes]


def model(units: int = 5) -> keras.Model:
    keras.utils.set_random_seed(1)
    return build_model(ModelRecipe("gru", units=(units,), dropout=0.3), 3, 2)


DEV = streams(99, 99)


def same(first: list[NDArray[Any]], second: list[NDArray[Any]]) -> bool:
    return all(np.allclose(a, b, atol=1e-5) for a, b in zip(first, second, strict=True))


def test_it_learns_and_ends_with_the_best_average(tmp_path: Path) -> None:
    trained = model()
    progress = fit(trained, make_batch, DEV, RECIPE, 1, tmp_path)
    best = progress.history[progress.best_epoch - 1]
    assert best["dev_accuracy"] == max(row["dev_accuracy"] for row in progress.history) >= 0.9
    assert (logits_of(trained, DEV[0]).argmax(axis=1) == DEV[1]).mean() == pytest.approx(best["dev_accuracy"])
    assert progress.history[-1]["loss"] < progress.history[0]["loss"]
    assert progress.seconds > 0


@pytest.mark.slow
def test_a_training_that_was_interrupted_ends_like_one_that_was_not(tmp_path: Path) -> None:
    straight, halting = model(), model()
    whole = fit(straight, make_batch, DEV, RECIPE, 1, tmp_path / "whole")

    def die(epoch: int, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if (epoch, number) == (3, 2):
            raise KeyboardInterrupt
        return make_batch(epoch, number)

    with pytest.raises(KeyboardInterrupt):
        fit(halting, die, DEV, RECIPE, 1, tmp_path / "halted")
    resumed = model()
    rest = fit(resumed, make_batch, DEV, RECIPE, 1, tmp_path / "halted")
    assert [row["epoch"] for row in rest.history] == [1, 2, 3, 4]
    for mine, theirs in zip(whole.history, rest.history, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
    assert same(straight.get_weights(), resumed.get_weights())


def test_it_stops_when_nothing_gets_better(tmp_path: Path) -> None:
    hopeless = FitRecipe(epochs=50, batch=16, examples=16, learning_rate=1e-9, patience=2, average=0.0)
    progress = fit(model(), make_batch, DEV, hopeless, 1, tmp_path)
    assert len(progress.history) == progress.last_gain + 2 < 50


def test_bars_are_for_terminals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(model(), make_batch, DEV, FitRecipe(epochs=1, batch=16, examples=16), 1, tmp_path)
    log = capsys.readouterr()
    assert log.out.startswith("epoch   1  loss")
    assert "epoch" not in log.err


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    one_epoch = FitRecipe(epochs=1, batch=16, examples=16)
    fit(model(), make_batch, DEV, one_epoch, 1, tmp_path)
    with pytest.raises(DataError, match="does not fit this recipe, or is broken"):
        fit(model(units=6), make_batch, DEV, one_epoch, 1, tmp_path)


def test_a_broken_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"half a file")
    with pytest.raises(DataError, match=r"last\.npz does not fit"):
        fit(model(), make_batch, DEV, RECIPE, 1, tmp_path)


def test_of_equal_epochs_the_one_with_less_loss_is_best() -> None:
    rows = [(1, 0.9, 0.5), (2, 0.9, 0.3), (3, 0.9, 0.3), (4, 0.8, 0.1)]
    history = [{"epoch": epoch, "dev_accuracy": right, "dev_loss": loss} for epoch, right, loss in rows]
    assert Progress(history).best_epoch == 2
    assert Progress(history).last_gain == 4
    assert (Progress().best_epoch, Progress().last_gain) == (0, 0)
