"""The parts of an artifact joined to a live stream."""

from __future__ import annotations

from edgernn.artifact import Artifact
from edgernn.decode.keyword import KeywordDecoder, KeywordSpec
from edgernn.devices.runner import open_runner
from edgernn.errors import ArtifactError
from edgernn.frontend import FrontEnd, LogMel
from edgernn.spec import StreamSpec
from edgernn.stream import Stream

__all__ = ["front_end_of", "keyword_spec_of", "open_stream", "row_seconds"]


def open_stream(
    artifact: Artifact, runtime: str | None = None, threads: int = 1, decoder: KeywordSpec | None = None
) -> Stream:
    """Open everything from samples to events.

    `decoder` replaces the artifact's own. Raises `ArtifactError` if the artifact is not for spotting words in sound,
    and what `open_runner` raises.
    """
    params = front_end_of(artifact)
    spec = decoder or keyword_spec_of(artifact)
    runner = open_runner(artifact, runtime, threads)
    outputs = runner.spec.outputs[0].shape[-1]
    if outputs != len(artifact.labels):
        raise ArtifactError(f"{artifact.path} has {len(artifact.labels)} labels for {outputs} outputs: convert again")
    return Stream(FrontEnd(params), runner, KeywordDecoder(spec, artifact.labels, row_seconds(runner.spec, params)))


def front_end_of(artifact: Artifact) -> LogMel:
    """Return the parameters of the front end; raise `ArtifactError` if there is none."""
    if artifact.front_end is None:
        raise ArtifactError(f"{artifact.path} has no front end: its model takes frames of something else than sound")
    return LogMel.from_dict(artifact.front_end)


def keyword_spec_of(artifact: Artifact) -> KeywordSpec:
    """Return the decoder's parameters; raise `ArtifactError` if there is none."""
    if artifact.decoder is None:
        raise ArtifactError(f"{artifact.path} has no decoder: nothing says what its outputs mean")
    return KeywordSpec.from_dict(artifact.decoder)


def row_seconds(spec: StreamSpec, params: LogMel) -> float:
    """Return how much time lies between two rows of the first output."""
    rows = 1 if spec.output_kinds[0] == "prefix" else spec.outputs[0].shape[1]
    return spec.frames_per_step / params.frame_rate_hz / rows
