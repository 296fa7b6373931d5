"""What makes events of an artifact's outputs: its own decoder, or one that is named.

alarm:WATCH?threshold=X          an alarm (release, below, duration_ms, refractory_ms, name)
keyword:?threshold=X             words (activation, smoothing_ms, refractory_ms, ignore)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from edgernn.artifact import Artifact
from edgernn.decode.alarm import AlarmDecoder, AlarmSpec, open_scorer
from edgernn.decode.keyword import KeywordDecoder, KeywordSpec
from edgernn.errors import ArtifactError, UsageError
from edgernn.spec import StreamSpec
from edgernn.stream import Decoder, Scorer

__all__ = [
    "SCHEMES", "DecoderSpec", "decoder_spec_of", "names_of", "open_decoder", "read_decoder", "row_seconds",
    "with_threshold",
]  # fmt: skip

DecoderSpec = KeywordSpec | AlarmSpec
KINDS: Mapping[str, type[KeywordSpec] | type[AlarmSpec]] = {"keyword": KeywordSpec, "alarm": AlarmSpec}
SCHEMES = {
    "alarm:WATCH?threshold=X": "WATCH is a label, an output, or 'distance' of output and input (release, below, …)",
    "keyword:?threshold=X": "words, or other labels (activation, smoothing_ms, refractory_ms, ignore)",
}


def decoder_spec_of(artifact: Artifact) -> DecoderSpec:
    """Return the decoder's parameters as they stand in the manifest; raise `ArtifactError` if there is none."""
    if artifact.decoder is None:
        raise ArtifactError(
            f"{artifact.path} has no decoder: nothing says what its outputs mean; name one, as in "
            "--decoder 'alarm:distance?threshold=0.5'"
        )
    return _from_dict(artifact.decoder)


def read_decoder(given: str | Mapping[str, Any]) -> DecoderSpec:
    """Read a decoder as a configuration or a command line names it; raise `UsageError` if it is none."""
    if isinstance(given, str):
        kind, _, rest = given.partition(":")
        watch, _, query = rest.partition("?")
        values = {name: _value(text) for name, text in parse_qsl(query, keep_blank_values=True)}
        if kind == "alarm" and watch:
            values["watch"] = watch
        if "ignore" in values:
            values["ignore"] = str(values["ignore"]).split(",")
        for name in {"name", "watch"} & set(values):
            values[name] = str(values[name])
        given = {"kind": kind, **values}
    try:
        return _from_dict(given)
    except ArtifactError as error:
        raise UsageError(f"the decoder cannot be used: {error}") from error


def _value(text: str) -> Any:
    if text in ("true", "false", ""):
        return text != "false"
    try:
        return float(text)
    except ValueError:
        return text


def _from_dict(values: Mapping[str, Any]) -> DecoderSpec:
    kind = str(values.get("kind"))
    if kind not in KINDS:
        raise ArtifactError(f"there is no decoder of the kind {kind!r}; there are: {', '.join(KINDS)}")
    return KINDS[kind].from_dict(values)


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
        raise ArtifactError(f"{artifact.path} has {len(artifact.labels)} labels for {outputs} outputs: convert again")
    return KeywordDecoder(spec, artifact.labels, row_seconds(stream, input_hz)), None


def row_seconds(spec: StreamSpec, input_hz: float, output: int = 0) -> float:
    """Return how much time lies between two rows of an output."""
    rows = 1 if spec.output_kinds[output] == "prefix" else spec.outputs[output].shape[1]
    return spec.frames_per_step / input_hz / rows
