"""Bounded networks as files of both formats, against the bounded step in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import pytest
from keras import layers

from edgernn.quantize.bounds import Bounds, Chunked, Window
from edgernn.quantize.convert import FORMATS, Options, convert
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.source import KerasSource
from tests.quantize.networks import Build, chain, frames, randomized
from tests.quantize.test_attention import encoder


def _both_ways() -> Any:
    both = layers.Bidirectional(layers.LSTM(24, return_sequences=True))
    return randomized(chain(layers.Conv1D(16, 3, padding="causal"), both, layers.Dense(5), features=20))


def _pooled() -> Any:
    return randomized(chain(layers.GRU(24, return_sequences=True), layers.GlobalAveragePooling1D(), layers.Dense(5)))


def attention_pooled() -> Any:
    first = frames()
    value = layers.GRU(24, return_sequences=True)(first)
    shares = layers.Softmax(axis=1)(layers.Dense(1)(value))
    return randomized(keras.Model(first, layers.Dense(5)(keras.ops.sum(shares * value, axis=1))))


CASES: dict[str, tuple[Build, Bounds, str]] = {
    "both ways, float32": (_both_ways, Bounds(Chunked(4, 8)), "float32"),
    "both ways, int8": (_both_ways, Bounds(Chunked(4, 8)), "int8"),
    "encoder, float32": (lambda: encoder(width=32), Bounds(attention=Window(12)), "float32"),
    "encoder, dynamic-int8": (lambda: encoder(width=32), Bounds(attention=Window(12)), "dynamic-int8"),
    "encoder, int8": (lambda: encoder(width=32), Bounds(attention=Window(12)), "int8"),
    "pooled, dynamic-int8": (_pooled, Bounds(pooling_window=30), "dynamic-int8"),
    "attention pooled, int8": (attention_pooled, Bounds(pooling_window=30), "int8"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_files_are_the_bounded_step(name: str, tmp_path: Path) -> None:
    build, bounds, scheme = CASES[name]
    source = KerasSource(model=build(), path=Path("made.keras"), sha256="0" * 64, name="made")
    chosen = SCHEMES[scheme]
    options = Options(FORMATS, chosen, chosen.tolerance, bounds, drift_steps=600)
    artifact = convert(source, tmp_path / "made", options)
    assert set(artifact.parity) == set(FORMATS)
    for kind, report in artifact.parity.items():
        assert report["against"] == "bounded step in float32", kind
        assert report["outputs"][0]["snr_db"] >= chosen.tolerance.min_snr_db, kind
    assert artifact.approximation is not None
    assert len(artifact.approximation.rows) > 3
