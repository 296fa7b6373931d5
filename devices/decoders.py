"""What makes events of an artifact's outputs: its own decoder, or one that is named (`edgernn.decode.spec`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgernn.artifact import Artifact
from edgernn.decode.alarm import AlarmDecoder, AlarmSpec, open_scorer
from edgernn.decode.keyword import KeywordDecoder, KeywordSpec
from edgernn.decode.spec import SCHEMES, DecoderSpec, decoder_from_dict, read_decoder
from edgernn.errors import ArtifactError, UsageError
from edgernn.spec import StreamSpec
from edgernn.stream import Decoder, Scorer

__all__ = [
    "SCHEMES", "DecoderSpec", "decoder_spec_of", "names_of", "open_decoder", "read_decoder", "row_seconds",
    "with_threshold",
]  # fmt: skip


def decoder_spec_of(artifact: Artifact) -> DecoderSpec:
    """Return the decoder's parameters as they stand in the manifest; raise `ArtifactError` if there is none."""
    if artifact.decoder is None:
        raise ArtifactError(
            f"{artifact.path} has no decoder: nothing says what its outputs mean; name one, as in "
            "--decoder 'alarm:distance?threshold=0.5' (a configuration's decoder = \"…\"; edgernn convert keeps one)"
        )
    return decoder_from_dict(artifact.decoder)


def with_threshold(spec: DecoderSpec, threshold: float | Mapping[str, float], labels: tuple[str, ...]) -> DecoderSpec:
    """Return the same with another threshold; that of an alarm is one number."""
    if isinstance(spec, KeywordSpec):
        return spec.with_threshold(threshold, labels)
    if isinstance(threshold, Mapping):
        raise UsageError(f"an alarm has one threshold, not one for each of {', '.join(threshold)}")
    return replace(spec, threshold=threshold)


def names_of(spec: DecoderSpec, artifact: Artifact) -> list[str]:
    """Return the words or names that events may have."""
    if isinstance(spec, AlarmSpec):
        return [spec.label]
    return [label for label in artifact.labels if label not in spec.ignore]


def open_decoder(
    spec: DecoderSpec, artifact: Artifact, stream: StreamSpec, input_hz: float
) -> tuple[Decoder, Scorer | None]:
    """Return the decoder, and what makes its scores where these are not the first output.

    `input_hz` is how many frames of the model's input there are in a second.
    """
    if isinstance(spec, AlarmSpec):
        scorer = open_scorer(spec, stream, artifact.labels)
        return AlarmDecoder(spec, row_seconds(stream, input_hz, scorer.output)), scorer
    outputs = stream.outputs[0].shape[-1]
    if outputs != len(artifact.labels):
        raise ArtifactError(
            f"{artifact.path} has {len(artifact.labels)} labels for {outputs} outputs: convert again, with --labels"
        )
    return KeywordDecoder(spec, artifact.labels, row_seconds(stream, input_hz)), None


def row_seconds(spec: StreamSpec, input_hz: float, output: int = 0) -> float:
    """Return how much time lies between two rows of an output."""
    rows = 1 if spec.output_kinds[output] == "prefix" else spec.outputs[output].shape[1]
    return spec.frames_per_step / input_hz / rows
