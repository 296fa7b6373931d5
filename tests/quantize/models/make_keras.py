"""Small Keras models in ONNX, by Keras' own export and by tf2onnx: `python -m tests.quantize.models.make_keras`.

Both write GRU and SimpleRNN as a Loop. The files are committed, with what Keras gives in `expected_keras.npz`, so that
no test needs tf2onnx. Written with Keras 3.15, TensorFlow 2.21 and tf2onnx 1.17.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from keras import layers
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from tests.quantize.networks import chain, randomized

FOLDER = Path(__file__).parent
MODELS: dict[str, Callable[[], Any]] = {
    "loop_gru": lambda: chain(layers.GRU(5, return_sequences=True), layers.Dense(3)),
    "loop_gru_before": lambda: chain(layers.GRU(5, return_sequences=True, reset_after=False), layers.GRU(4)),
    "loop_rnn": lambda: chain(layers.SimpleRNN(6, return_sequences=True, activation="relu"), layers.Dense(3)),
    "keras_lstm": lambda: chain(layers.LSTM(5, return_sequences=True), layers.Dense(3)),
}


def by_keras(model: Any, path: Path) -> None:
    """Write a model with Keras' own export."""
    model.export(path, format="onnx", verbose=False)


def by_tf2onnx(model: Any, path: Path) -> None:
    """Write a model with tf2onnx."""
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec((None, None, 6), tf.float32, name="x")]
    function = tf.function(lambda x: model(x, training=False), input_signature=signature)
    tf2onnx.convert.from_function(function, input_signature=signature, output_path=str(path), opset=17)


def main() -> None:
    """Write all files."""
    x = np.random.default_rng(4).standard_normal((1, 20, 6)).astype(np.float32)
    expected: dict[str, Any] = {"input": x}
    for name, build in MODELS.items():
        model = randomized(build())
        expected[name] = np.asarray(model(x, training=False))
        for exporter, export in (("keras", by_keras), ("tf2onnx", by_tf2onnx)):
            with tempfile.TemporaryDirectory() as folder:
                export(model, Path(folder, "model.onnx"))
                plain = ClearMetadataAndDocStringPass()(ir.from_proto(onnx.load(Path(folder, "model.onnx")))).model
            onnx.save(ir.to_proto(plain), FOLDER / f"{name}.{exporter}.onnx")
    np.savez_compressed(FOLDER / "expected_keras.npz", **expected)


if __name__ == "__main__":
    main()
