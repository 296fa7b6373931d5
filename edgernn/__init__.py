"""EdgeRNN: recurrent networks as proven streams on small machines."""

from __future__ import annotations

__version__ = "0.1.0"
