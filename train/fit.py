"""The training loop: it can be killed at any time, and goes on from its last epoch as if it had not been.

Backend-neutral: Keras compiles one step, all else is NumPy.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from edgernn.errors import DataError
from edgernn.train.recipe import FitRecipe

__all__ = ["Progress", "fit", "logits_of"]

Weights = list[NDArray[Any]]
MakeBatch = Callable[[int, int], tuple[NDArray[np.float32], NDArray[np.float32]]]
CHECKPOINT = "last.npz"


@dataclass
class Progress:
    """How far a training is; all of it goes into the checkpoint."""

    history: list[dict[str, float]] = field(default_factory=list)
    """One row for each finished epoch."""
    average: Weights = field(default_factory=list)
    """Moving average of the weights."""
    best: Weights = field(default_factory=list)
    """The average at the epoch with the best dev accuracy."""
    seconds: float = 0.0
    """Time spent training, over all runs."""

    @property
    def best_epoch(self) -> int:
        """Number of the epoch with the best dev accuracy, of equals the one with the least loss; 0 if none."""
        ranks = [(row["dev_accuracy"], -row["dev_loss"], -row["epoch"]) for row in self.history]
        return int(-max(ranks)[2]) if ranks else 0

    @property
    def last_gain(self) -> int:
        """Number of the last epoch with a better dev accuracy or dev loss than all before; 0 if none.

        Accuracy alone is too coarse to stop by: on a few hundred clips a lucky epoch may stand for long.
        """
        least_loss = min(((row["dev_loss"], row["epoch"]) for row in self.history), default=(0.0, 0))
        return max(self.best_epoch, int(least_loss[1]))


def fit(
    model: keras.Model,
    make_batch: MakeBatch,
    dev: tuple[NDArray[np.float32], NDArray[np.int64]],
    recipe: FitRecipe,
    seed: int,
    folder: Path,
) -> Progress:
    """Train `model` and leave it with its best weights; checkpoints go to `folder`, and are resumed from there.

    `make_batch(epoch, number)` gives frames `(streams, frames, bands)` and targets `(streams, classes)`, float32, the
    same ones whenever it is asked again. `dev` is such frames and their classes `(streams,)`, int64; it decides which
    epoch is kept.
    """
    steps = max(1, recipe.examples // recipe.batch)
    _compile(model, recipe, steps)
    progress = _resume(model, folder / CHECKPOINT)
    averaged = keras.Model.from_config(model.get_config())
    for epoch in range(len(progress.history) + 1, recipe.epochs + 1):
        if epoch - 1 - progress.last_gain >= recipe.patience:
            break
        began = time.perf_counter()
        _seed_dropout(model, seed + epoch)
        row = _train_epoch(model, make_batch, epoch, steps, recipe, progress)
        averaged.set_weights(progress.average)
        row |= _score(averaged, dev)
        progress.history.append(row)
        if progress.best_epoch == epoch:
            progress.best = [weight.copy() for weight in progress.average]
        progress.seconds += time.perf_counter() - began
        _report(row, progress)
        _save(model, progress, folder / CHECKPOINT)
    model.set_weights(progress.best)
    return progress


def logits_of(model: keras.Model, frames: NDArray[np.float32], batch: int = 128) -> NDArray[np.float32]:
    """Return the logits of each stream, `(streams, classes)`."""
    parts = [np.asarray(model.predict_on_batch(frames[i : i + batch])) for i in range(0, len(frames), batch)]
    return np.concatenate(parts)


def _compile(model: keras.Model, recipe: FitRecipe, steps: int) -> None:
    warmup = max(1, int(recipe.warmup_epochs * steps))
    rate = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=recipe.learning_rate / 100.0,
        decay_steps=max(1, recipe.epochs * steps - warmup),
        alpha=0.01,
        warmup_target=recipe.learning_rate,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay, global_clipnorm=recipe.clip_norm)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing)
    # TensorFlow runs recurrent loops faster without XLA; JAX would run them without any compilation.
    compiled = False if keras.backend.backend() == "tensorflow" else "auto"
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=compiled)
    optimizer.build(model.trainable_variables)


def _seed_dropout(model: keras.Model, seed: int) -> None:
    """Begin each epoch with dropout seeds that depend on the epoch alone, so that a resumed run repeats it."""
    for number, layer in enumerate(model.layers):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            generator.state.assign(np.array([seed, number], dtype=np.uint32))


def _train_epoch(
    model: keras.Model, make_batch: MakeBatch, epoch: int, steps: int, recipe: FitRecipe, progress: Progress
) -> dict[str, float]:
    progress.average = progress.average or model.get_weights()
    sums = {"loss": 0.0, "accuracy": 0.0}
    batches = _prefetch(make_batch, epoch, steps)
    # disable=None: a bar on a terminal, none in a log
    bar = tqdm(batches, total=steps, leave=False, desc=f"epoch {epoch}", file=sys.stderr, disable=None)
    for step, (frames, targets) in enumerate(bar, start=(epoch - 1) * steps):
        scores = model.train_on_batch(frames, targets, return_dict=True)
        sums = {name: total + float(scores[name]) for name, total in sums.items()}
        momentum = min(recipe.average, (1.0 + step) / (10.0 + step))
        for mean, weight in zip(progress.average, model.get_weights(), strict=True):
            mean += (1.0 - momentum) * (weight - mean)
    return {"epoch": epoch, **{name: total / steps for name, total in sums.items()}}


def _prefetch(make_batch: MakeBatch, epoch: int, steps: int) -> Iterator[Any]:
    """Yield the batches of an epoch; the next ones are made in a thread meanwhile."""
    ahead = 3
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(make_batch, epoch, number) for number in range(min(ahead, steps))]
        for number in range(steps):
            if number + ahead < steps:
                waiting.append(pool.submit(make_batch, epoch, number + ahead))
            yield waiting.pop(0).result()


def _score(model: keras.Model, dev: tuple[NDArray[np.float32], NDArray[np.int64]]) -> dict[str, float]:
    frames, labels = dev
    logits = logits_of(model, frames).astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_posteriors = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return {
        "dev_loss": float(-log_posteriors[np.arange(len(labels)), labels].mean()),
        "dev_accuracy": float((logits.argmax(axis=1) == labels).mean()),
    }


def _report(row: Mapping[str, float], progress: Progress) -> None:
    print(
        f"epoch {row['epoch']:3.0f}  loss {row['loss']:.3f}  accuracy {row['accuracy']:.3f}  "
        f"dev loss {row['dev_loss']:.3f}  dev accuracy {row['dev_accuracy']:.4f}  "
        f"(best: epoch {progress.best_epoch})  {progress.seconds:.0f} s",
        flush=True,
    )


def _save(model: keras.Model, progress: Progress, path: Path) -> None:
    """Write the checkpoint whole or not at all; a plain .npz, without pickle."""
    state = {
        "model": model.get_weights(),
        "optimizer": [variable.numpy() for variable in model.optimizer.variables],
        "average": progress.average,
        "best": progress.best,
    }
    arrays = {f"{part}_{i:03d}": array for part, weights in state.items() for i, array in enumerate(weights)}
    rest = json.dumps({"history": progress.history, "seconds": progress.seconds})
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    with scratch.open("wb") as file:
        np.savez(file, progress=np.array(rest), **arrays)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def _resume(model: keras.Model, path: Path) -> Progress:
    if not path.is_file():
        return Progress()
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        rest = json.loads(str(arrays.pop("progress")))
        model.set_weights(_part(arrays, "model"))
        for variable, value in zip(model.optimizer.variables, _part(arrays, "optimizer"), strict=True):
            variable.assign(value)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"the checkpoint {path} does not fit this recipe, or is broken: {error}; train anew without --resume"
        ) from error
    return Progress(rest["history"], _part(arrays, "average"), _part(arrays, "best"), rest["seconds"])


def _part(arrays: Mapping[str, NDArray[Any]], part: str) -> Weights:
    return [arrays[name] for name in sorted(arrays) if name.startswith(f"{part}_")]
