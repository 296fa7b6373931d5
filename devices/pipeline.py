"""The parts of an artifact joined to a live stream."""

from __future__ import annotations

from edgernn.artifact import Artifact
from edgernn.devices.decoders import DecoderSpec, decoder_spec_of, open_decoder
from edgernn.devices.runner import open_runner
from edgernn.errors import ArtifactError, UsageError
from edgernn.event_stream import EventStream, Stream
from edgernn.frontend import FrontEnd, LogMel, PlainSamples
from edgernn.sensor_stream import HOLD_FRAMES, SensorStream

__all__ = ["check_rate", "front_end_of", "open_front_end", "open_stream"]


def open_stream(
    artifact: Artifact,
    runtime: str | None = None,
    threads: int = 1,
    decoder: DecoderSpec | None = None,
    rate_hz: float | None = None,
    hold_frames: int = HOLD_FRAMES,
) -> EventStream:
    """Open everything from samples, or frames where the artifact has no front end, to events.

    `decoder` replaces the artifact's own, `rate_hz` the rate of frames that it says; `hold_frames` is how many lost
    ones are bridged. Raises `ArtifactError` if the artifact has no decoder, `UsageError` if one does not fit or nothing
    says the rate, and what `open_runner` raises.
    """
    front_end = None if artifact.front_end is None else open_front_end(artifact)
    rate_hz = front_end.rows_hz if front_end else check_rate(artifact, rate_hz)
    spec = decoder or decoder_spec_of(artifact)
    runner = open_runner(artifact, runtime, threads)
    if runner.spec.contexts:
        names = ", ".join(item.name for item in runner.spec.contexts)
        raise ArtifactError(
            f"{artifact.path} takes a context ({names}), which no source brings: open it from Python and begin with "
            "runner.reset(context=...)"
        )
    decoding, scorer = open_decoder(spec, artifact, runner.spec, rate_hz)
    if front_end is None:
        return SensorStream(runner, decoding, rate_hz, scorer, hold_frames)
    return Stream(front_end, runner, decoding, scorer)


def check_rate(artifact: Artifact, rate_hz: float | None) -> float:
    """Return how many frames a second there are, by the source or else the artifact; raise `UsageError` if none says.

    An artifact with a front end has a rate of its own: that of the sound.
    """
    found = rate_hz or artifact.frame_rate_hz
    if found is None:
        raise UsageError(
            f"{artifact.path} does not say how many frames a second it takes: add the rate to the source, as in "
            "'csv:PATH?rate=50'"
        )
    return found


def front_end_of(artifact: Artifact) -> LogMel:
    """Return the parameters of the front end; raise `ArtifactError` if there is none."""
    if artifact.front_end is None:
        raise ArtifactError(f"{artifact.path} has no front end: its model takes frames of something else than sound")
    return LogMel.from_dict(artifact.front_end)


def open_front_end(artifact: Artifact) -> FrontEnd | PlainSamples:
    """Return what makes frames of sound: nothing, where the model does it; raise `ArtifactError` if there is none."""
    params = front_end_of(artifact)
    return PlainSamples(params) if artifact.front_end_embedded else FrontEnd(params)
