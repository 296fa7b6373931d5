"""Which decoder, and with what parameters: as a manifest, a configuration and a command line have it.

alarm:WATCH?threshold=X          an alarm (release, below, duration_ms, refractory_ms, name)
keyword:?threshold=X             words (activation, smoothing_ms, refractory_ms, ignore)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from edgernn.decode.alarm import AlarmSpec, open_scorer
from edgernn.decode.keyword import KeywordSpec
from edgernn.errors import ArtifactError, UsageError
from edgernn.spec import StreamSpec

__all__ = ["SCHEMES", "DecoderSpec", "check_decoder", "decoder_from_dict", "read_decoder"]

DecoderSpec = KeywordSpec | AlarmSpec
KINDS: Mapping[str, type[KeywordSpec] | type[AlarmSpec]] = {"keyword": KeywordSpec, "alarm": AlarmSpec}
SCHEMES = {
    "alarm:WATCH?threshold=X": "WATCH is a label, an output, or 'distance' of output and input (release, below, …)",
    "keyword:?threshold=X": "words, or other labels (activation, smoothing_ms, refractory_ms, ignore)",
}
"""How each is written, and what it is."""


def read_decoder(given: str | Mapping[str, Any]) -> DecoderSpec:
    """Read a decoder as a configuration or a command line names it; raise `UsageError` if it is none.

    >>> read_decoder("keyword:?threshold=0.8&ignore=noise").ignore
    ('noise',)
    """
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
        return decoder_from_dict(given)
    except ArtifactError as error:
        raise UsageError(f"the decoder cannot be used: {error}") from error


def _value(text: str) -> Any:
    if text in ("true", "false", ""):
        return text != "false"
    try:
        return float(text)
    except ValueError:
        return text


def decoder_from_dict(values: Mapping[str, Any]) -> DecoderSpec:
    """Read what a manifest says; raise `ArtifactError` if it is no decoder."""
    kind = str(values.get("kind"))
    if kind not in KINDS:
        raise ArtifactError(f"there is no decoder of the kind {kind!r}; there are: {', '.join(KINDS)}")
    return KINDS[kind].from_dict(values)


def check_decoder(spec: DecoderSpec, stream: StreamSpec, labels: Sequence[str]) -> None:
    """Raise `UsageError` where a decoder does not fit what a model gives."""
    if isinstance(spec, AlarmSpec):
        open_scorer(spec, stream, labels)
        return
    outputs = stream.outputs[0].shape[-1]
    if outputs != len(labels):
        raise UsageError(f"there are {len(labels)} labels for the {outputs} values of '{stream.outputs[0].name}'")
    if set(labels) <= set(spec.ignore):
        raise UsageError(f"the decoder ignores every label there is: {', '.join(labels)}")
