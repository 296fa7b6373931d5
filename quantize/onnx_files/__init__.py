"""ONNX files from elsewhere: reading them safely, and finding out what in them is time."""
