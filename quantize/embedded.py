"""A source that takes sound: the front end of its training run, and then the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgernn.errors import UsageError
from edgernn.frontend import LogMel, log_mel
from edgernn.quantize.front_end import embed_front_end
from edgernn.quantize.oracle import Oracle
from edgernn.quantize.source import Source

__all__ = ["EmbeddedSource", "embedded"]


@dataclass(frozen=True, kw_only=True)
class EmbeddedSource(Source):
    """A model behind its front end; its examples are samples, `(samples,)`, full scale at ±1."""

    base: Source
    params: LogMel

    def graph(self) -> ir.Model:
        """Return the model's graph behind that of the front end."""
        return embed_front_end(self.base.graph(), self.params)

    def oracle(self) -> Oracle:
        """Return the front end of the core, which computes spectra otherwise, and behind it the model itself."""
        return _SoundOracle(self.base.oracle(), self.params)


def embedded(source: Source) -> EmbeddedSource:
    """Return the source with its front end inside; raise `UsageError` where it has none.

    The frames that a training run brings (to calibrate and to measure accuracy on) are no sound, and stay behind.
    """
    front_end: Mapping[str, Any] | None = source.facts.get("front_end")
    if front_end is None:
        raise UsageError(
            f"{source.path} has no audio front end to embed: --embed-frontend is for the folder of a training run, "
            "whose run.json has one"
        )
    params = LogMel.from_dict(front_end)
    facts = {**source.facts, "front_end_embedded": True, "frame_rate_hz": float(params.rate_hz)}
    return EmbeddedSource(
        path=source.path, sha256=source.sha256, name=source.name, facts=facts, base=source, params=params
    )


class _SoundOracle(Oracle):
    def __init__(self, base: Oracle, params: LogMel) -> None:
        self.base, self.params = base, params

    def batch(self, frames: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Return every output for several recordings of one length, `(streams, samples)`."""
        return self.base.batch([np.stack([log_mel(samples, self.params) for samples in frames[0]])])
