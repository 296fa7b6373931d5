"""Every second frame or fewer, x[:, ::2]: against Keras, and against ONNX files on whole sequences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from onnx.reference import ReferenceEvaluator

from edgernn.errors import UnsupportedLayerError
from edgernn.quantize.from_keras import from_keras
from edgernn.quantize.schemes import SCHEMES
from edgernn.quantize.stepping import invoke_tflite, steps
from edgernn.quantize.streaming import stream
from edgernn.quantize.to_tflite import plain_tflite, quantized_tflite
from tests.quantize.networks import frames, keras_outputs, randomized, streams_for
from tests.quantize.test_from_onnx import stepped
from tests.quantize.test_mixing import Nodes, behind_a_gru, loaded
from tests.quantize.test_streaming import assert_streams

KERAS: dict[str, Callable[[Any], Any]] = {
    "frames": lambda x: x[:, ::2],
    "between layers": lambda x: layers.GRU(3, return_sequences=True)(layers.Dense(4)(x)[:, ::3]),
    "behind a valid window": lambda x: layers.Conv1D(4, 4)(x)[:, ::2],
    "behind a window that looks ahead": lambda x: layers.Conv1D(4, 5, padding="same")(x)[:, 1::3],
    "behind zeros": lambda x: layers.ZeroPadding1D((3, 0))(x)[:, ::2],
    "behind zeros, some cut": lambda x: layers.ZeroPadding1D((3, 2))(x)[:, 2:-1:2],
    "without the ends": lambda x: layers.GRU(3, return_sequences=True)(x)[:, 3:-2:2],
    "twice": lambda x: layers.LSTM(2)(x[:, ::2][:, 1::2]),
    "then a mean": lambda x: layers.GlobalAveragePooling1D()(x[:, ::2]),
    "beside a stride": lambda x: x[:, ::2, :4] + layers.Conv1D(4, 3, 2, padding="causal")(x),
}


@pytest.mark.parametrize("name", KERAS)
@pytest.mark.parametrize("per_step", [1, 2])
def test_every_few_frames_are_those_of_keras(name: str, per_step: int) -> None:
    first = frames()
    assert_streams(randomized(keras.Model(first, KERAS[name](first))), length=72, per_step=per_step)


FILES: dict[str, Nodes] = {
    "every third": [("Slice", ["g", "first_of", "end_of", "time", "three", "y"], {})],
    "from the second on": [("Slice", ["g", "one", "before_the_end", "time", "three", "y"], {})],
    "features turned around": [("Slice", ["g", "back", "front", "feature", "back", "y"], {})],
}
NUMBERS = {"first_of": [0], "end_of": [2**62], "time": [1], "three": [3], "before_the_end": [-2], "feature": [2]}
NUMBERS["front"] = [-(2**62)]


@pytest.mark.parametrize("name", FILES)
def test_every_few_frames_are_those_of_the_file(name: str, tmp_path: Path) -> None:
    proto = behind_a_gru(FILES[name], numbers=NUMBERS)
    x = np.random.default_rng(1).standard_normal((36, 6)).astype(np.float32)
    truth = np.stack(list(ReferenceEvaluator(proto).run(None, {"x": x[None]})))[0, 0]
    graph = stream(loaded(proto, tmp_path).graph())
    (found,) = stepped(graph, [x]).values()
    found = found[graph.spec().output_delays[0] :]
    assert len(found) >= len(truth) - 1
    np.testing.assert_allclose(found[: len(truth)], truth[: len(found)], atol=1e-5)


def test_a_sequence_that_is_turned_around_is_refused(tmp_path: Path) -> None:
    nodes: Nodes = [("Slice", ["g", "back", "front", "time", "back", "y"], {})]
    with pytest.raises(UnsupportedLayerError, match=r"Slice_y.*turns the sequence around; a stream runs forward only"):
        loaded(behind_a_gru(nodes, numbers=NUMBERS), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_tflite_takes_every_second_frame(scheme: str) -> None:
    first = frames()
    model = randomized(keras.Model(first, layers.GRU(4, return_sequences=True)(layers.Conv1D(8, 3)(first)[:, ::2])))
    plain, spec = plain_tflite(stream(from_keras(model)))
    (x,) = streams_for(model, 60)
    content, spec = quantized_tflite(plain, spec, SCHEMES[scheme], [(x,)])
    found = np.concatenate([step[spec.outputs[0].name][0] for step in steps(invoke_tflite(content), spec, [x])])
    (truth,) = keras_outputs(model, [x[None]])
    late = spec.output_delays[0]
    np.testing.assert_allclose(found[late:], truth[0, : len(found) - late], atol=1e-5 if scheme == "float32" else 0.05)
