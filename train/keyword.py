"""Keyword spotting, end to end: a folder of clips and a recipe become a run folder.

The run folder holds `model.keras` and `run.json`, which is what `edgernn convert` reads; `dev.npz` and
`calibration.npz`, frames as the model sees them; the recipe; history, confusion matrix; and the checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from edgernn.clips import SILENCE, UNKNOWN, labels_of
from edgernn.errors import DataError
from edgernn.frontend import FrontEnd, LogMel
from edgernn.train.calibration import calibration_streams
from edgernn.train.datasets import Sounds, dev_silence, load_sounds
from edgernn.train.examples import Examples, clip_frames, frames_of, measure
from edgernn.train.fit import Progress, fit, logits_of
from edgernn.train.models import build_model
from edgernn.train.quantize_aware import quantization_aware, settle
from edgernn.train.recipe import DecoderRecipe, Recipe, write_recipe
from edgernn.train.report import (
    confusion_matrix,
    confusion_text,
    plot_confusion,
    plot_history,
    recalls,
    write_history,
)

__all__ = ["dev_set", "train_keywords"]

Frames = NDArray[np.float32]
Classes = NDArray[np.int64]
CALIBRATION_STREAMS = 64


def train_keywords(data: Path, run: Path, recipe: Recipe, start: Path | None = None) -> dict[str, Any]:
    """Train on the clips in `data`, fill the folder `run`, and return what `run/run.json` says.

    Begins with the weights and the front end of the run `start`, if there is one. A checkpoint in `run` is gone on
    from. Raises `DataError` when the clips do not suffice.
    """
    keras.utils.set_random_seed(recipe.seed)
    labels = labels_of(recipe.words)
    train, dev = load_sounds(data, recipe)
    kept = run / "checkpoints" / "front_end.json"
    if start is not None and not kept.is_file():
        _take_front_end(start, kept)
    params = _front_end(train, recipe, kept)
    model = build_model(recipe.model, params.bands, len(labels))
    if start is not None:
        _take_weights(start, model)
    write_recipe(run / "recipe.toml", recipe)
    examples = Examples(train, recipe, params)
    frames, classes, silent = dev_set(dev, recipe, params)
    print(_opening(model, train, dev, silent))
    if labels.index(UNKNOWN) not in train.classes:
        print(
            f"{data} has train clips of {', '.join(recipe.words)} alone: without other words the class unknown cannot "
            f"be learned, and any word will be taken for one of these; add some as {data}/<other word>/<name>.wav"
        )
    aware = quantization_aware(model, recipe.fit.quantize_aware) if recipe.fit.quantize_aware else model
    progress = fit(aware, examples.batch, (frames, classes), recipe.fit, recipe.seed, run / "checkpoints")
    if aware is not model:
        settle(aware, model)
    confusion = confusion_matrix(classes, logits_of(model, frames).argmax(axis=1), len(labels))
    _write_arrays(run, frames, classes, calibration_streams(train, params, CALIBRATION_STREAMS, recipe.seed))
    _write_reports(run, progress, confusion, labels)
    _save(model, run / "model.keras")
    facts = {
        "task": recipe.task,
        "name": recipe.name or run.resolve().name,
        "labels": list(labels),
        "front_end": params.to_dict(),
        "frame_rate_hz": params.frame_rate_hz,
        "decoder": _decoder(recipe.decoder),
        "parameters": model.count_params(),
        "accuracy": _accuracy(confusion, labels),
        "data": {"dev_silence_clips": silent, **_data(train, dev)},
        "seconds": round(progress.seconds, 1),
        **({"quantize_aware": recipe.fit.quantize_aware} if recipe.fit.quantize_aware else {}),
        "epochs": {"trained": len(progress.history), "kept": progress.best_epoch},
        "versions": _versions(),
    }
    (run / "run.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return facts


def dev_set(dev: Sounds, recipe: Recipe, params: LogMel) -> tuple[Frames, Classes, int]:
    """Return frames `(clips, frames, bands)` and classes `(clips,)` for dev, and how many of them are silence.

    There are as many clips of silence as of a word, on average.
    """
    labels, front_end, frames = labels_of(recipe.words), FrontEnd(params), clip_frames(params)
    spoken = int(np.isin(dev.classes, range(len(recipe.words))).sum())
    silence = dev_silence(dev.noises, max(1, spoken // len(recipe.words)), params.rate_hz, recipe.seed)
    streams = np.stack([frames_of(sound, front_end, frames) for sound in (*dev.sounds, *silence)])
    classes = np.concatenate([dev.classes, np.full(len(silence), labels.index(SILENCE), np.int64)])
    return streams, classes, len(silence)


def _take_front_end(start: Path, path: Path) -> None:
    """The weights of a run were learned from frames of its front end, so both are taken."""
    try:
        facts = json.loads((start / "run.json").read_text(encoding="utf-8"))
        front_end = LogMel.from_dict(facts["front_end"]).to_dict()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{start} is not the folder of a finished training: its run.json cannot be read") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(front_end), encoding="utf-8")


def _take_weights(start: Path, model: keras.Model) -> None:
    trained = keras.models.load_model(start / "model.keras", compile=False, safe_mode=True)
    try:
        model.set_weights(trained.get_weights())
    except ValueError as error:
        raise DataError(f"{start / 'model.keras'} is another network than its recipe says: {error}") from error


def _front_end(train: Sounds, recipe: Recipe, path: Path) -> LogMel:
    """Return the front end, normalised to suit the training clips; a training that is resumed has it in `path`."""
    if path.is_file():
        return LogMel.from_dict(json.loads(path.read_text(encoding="utf-8")))
    window_samples = round(recipe.window_ms * recipe.rate_hz / 1000.0)
    params = LogMel(
        rate_hz=recipe.rate_hz,
        window_samples=window_samples,
        hop_samples=round(recipe.hop_ms * recipe.rate_hz / 1000.0),
        fft_size=1 << max(0, window_samples - 1).bit_length(),
        bands=recipe.bands,
        high_hz=min(7600.0, 0.475 * recipe.rate_hz),
    )
    mean, std = measure(Examples(train, recipe, params))
    normalised = replace(params, mean=mean, std=std)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(normalised.to_dict()), encoding="utf-8")
    return normalised


def _decoder(recipe: DecoderRecipe) -> dict[str, Any]:
    return {
        "kind": "keyword",
        "activation": "softmax",
        "smoothing_ms": recipe.smoothing_ms,
        "threshold": recipe.threshold,
        "refractory_ms": recipe.refractory_ms,
        "ignore": [UNKNOWN, SILENCE],
    }


def _accuracy(confusion: Classes, labels: Sequence[str]) -> dict[str, Any]:
    right, total = int(np.trace(confusion)), int(confusion.sum())
    return {"dev": right / total, "right": right, "clips": total, "per_class": recalls(confusion, labels)}


def _data(train: Sounds, dev: Sounds) -> dict[str, Any]:
    digest = hashlib.sha256()
    for sound in (*train.sounds, *dev.sounds, *train.noises, *dev.noises):
        digest.update(sound.tobytes())
    return {
        "train_clips": len(train.clips),
        "train_speakers": len({clip.speaker for clip in train.clips}),
        "dev_clips": len(dev.clips),
        "dev_speakers": len({clip.speaker for clip in dev.clips}),
        "noise_recordings": len(train.noises),
        "sha256": digest.hexdigest(),
    }


def _versions() -> dict[str, str]:
    backend = keras.backend.backend()
    packages = ("edgernn", "keras", "numpy", backend)
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _write_arrays(run: Path, frames: Frames, classes: Classes, calibration: Frames) -> None:
    np.savez_compressed(run / "dev.npz", x=frames, y=classes)
    np.savez_compressed(run / "calibration.npz", x=calibration)


def _write_reports(run: Path, progress: Progress, confusion: Classes, labels: Sequence[str]) -> None:
    write_history(progress.history, run / "history.csv")
    plot_history(progress.history, progress.best_epoch, run / "history.png")
    (run / "confusion.txt").write_text(confusion_text(confusion, labels), encoding="utf-8")
    plot_confusion(confusion, labels, run / "confusion.png")


def _save(model: keras.Model, path: Path) -> None:
    """Save the model without what only training needs: the optimizer's state is twice its size."""
    bare = keras.Model.from_config(model.get_config())
    bare.set_weights(model.get_weights())
    bare.save(path)


def _opening(model: keras.Model, train: Sounds, dev: Sounds, silent: int) -> str:
    sides = [
        f"{len(side.clips)} clips of {len({clip.speaker for clip in side.clips})} speakers" for side in (train, dev)
    ]
    return (
        f"{model.name}: {model.count_params():,} parameters; "
        f"Keras {keras.__version__} on {keras.backend.backend()}\n"
        f"train: {sides[0]}; dev: {sides[1]}, and {silent} of silence"
    )
