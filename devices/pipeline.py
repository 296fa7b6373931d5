"""The parts of an artifact joined to a live stream."""

from __future__ import annotations

from edgernn.artifact import Artifact
from edgernn.decode.keyword import KeywordDecoder, KeywordSpec
from edgernn.devices.runner import open_runner
from edgernn.errors import ArtifactError
from edgernn.frontend import FrontEnd, LogMel, PlainSamples
from edgernn.spec import StreamSpec
from edgernn.stream import Stream

__all__ = ["front_end_of", "keyword_spec_of", "open_front_end", "open_stream", "row_seconds", "words_of"]


def open_stream(
    artifact: Artifact, runtime: str | None = None, threads: int = 1, decoder: KeywordSpec | None = None
) -> Stream:
    """Open everything from samples to events.

    `decoder` replaces the artifact's own. Raises `ArtifactError` if the artifact is not for spotting words in sound,
    and what `open_runner` raises.
    """
    front_end = open_front_end(artifact)
    spec = decoder or keyword_spec_of(artifact)
    runner = open_runner(artifact, runtime, threads)
    if runner.spec.contexts:
        names = ", ".join(item.name for item in runner.spec.contexts)
        raise ArtifactError(
            f"{artifact.path} takes a context ({names}), which a stream of sound does not bring: open it from Python "
            "and begin with runner.reset(context=...)"
        )
    outputs = runner.spec.outputs[0].shape[-1]
    if outputs != len(artifact.labels):
        raise ArtifactError(f"{artifact.path} has {len(artifact.labels)} labels for {outputs} outputs: convert again")
    seconds = row_seconds(runner.spec, front_end.rows_hz)
    return Stream(front_end, runner, KeywordDecoder(spec, artifact.labels, seconds))


def front_end_of(artifact: Artifact) -> LogMel:
    """Return the parameters of the front end; raise `ArtifactError` if there is none."""
    if artifact.front_end is None:
        raise ArtifactError(
            f"{artifact.path} has no front end: its model takes frames of something else than sound; push them from "
            "Python (edgernn.stream.FrameStream), or measure with edgernn profile"
        )
    return LogMel.from_dict(artifact.front_end)


def open_front_end(artifact: Artifact) -> FrontEnd | PlainSamples:
    """Return what makes frames of sound: nothing, where the model does it; raise `ArtifactError` if there is none."""
    params = front_end_of(artifact)
    return PlainSamples(params) if artifact.front_end_embedded else FrontEnd(params)


def keyword_spec_of(artifact: Artifact) -> KeywordSpec:
    """Return the decoder's parameters; raise `ArtifactError` if there is none."""
    if artifact.decoder is None:
        raise ArtifactError(f"{artifact.path} has no decoder: nothing says what its outputs mean")
    return KeywordSpec.from_dict(artifact.decoder)


def words_of(artifact: Artifact) -> list[str]:
    """Return the words that its events may have."""
    ignored = keyword_spec_of(artifact).ignore
    return [label for label in artifact.labels if label not in ignored]


def row_seconds(spec: StreamSpec, input_hz: float) -> float:
    """Return how much time lies between two rows of the first output."""
    rows = 1 if spec.output_kinds[0] == "prefix" else spec.outputs[0].shape[1]
    return spec.frames_per_step / input_hz / rows
