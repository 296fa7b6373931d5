"""Training on the desktop (Keras 3)."""
