"""The graph of SavedModel folders without layers, as Keras 3 exports them: looked through, then brought to ONNX."""
