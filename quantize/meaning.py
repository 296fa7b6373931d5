"""What a model's outputs mean, where no training run says it: labels, a decoder, and how fast its frames come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgernn.decode.keyword import KeywordSpec
from edgernn.decode.spec import DecoderSpec, read_decoder
from edgernn.errors import UsageError
from edgernn.files import read_file

__all__ = ["Meaning", "read_meaning"]

MOST_LABELS = 2**20  # bytes of a file with labels


@dataclass(frozen=True)
class Meaning:
    """What was said; it stands over what a training run says."""

    labels: tuple[str, ...] = ()
    decoder: DecoderSpec | None = None
    frame_rate_hz: float | None = None

    @property
    def facts(self) -> Mapping[str, Any]:
        """Return it as `run.json` of a training run has it."""
        given = {
            "labels": list(self.labels) or None,
            "decoder": self.decoder and self.decoder.to_dict(),
            "frame_rate_hz": self.frame_rate_hz,
        }
        return {name: value for name, value in given.items() if value is not None}


def read_meaning(model: Path, labels: str | None, decoder: str | None, frame_rate: float | None) -> Meaning:
    """Read the options; raise `UsageError` for what makes no sense, or not together."""
    of_run = (model / "run.json").is_file()
    if frame_rate is not None and of_run:
        raise UsageError("--frame-rate is for models without a training run, whose front end says it: leave it out")
    if frame_rate is not None and not 0 < frame_rate < float("inf"):
        raise UsageError(f"--frame-rate {frame_rate:g}: expected frames a second, a number above 0")
    meaning = Meaning(_labels(labels) if labels is not None else (), _decoder(decoder), frame_rate)
    if isinstance(meaning.decoder, KeywordSpec):
        if not meaning.labels and not of_run:
            raise UsageError("--decoder keyword: reports labels, and there are none: name them with --labels A,B,C")
        if meaning.labels and set(meaning.labels) <= set(meaning.decoder.ignore):
            raise UsageError(f"--decoder {decoder}: it ignores every label there is: {', '.join(meaning.labels)}")
    return meaning


def _decoder(text: str | None) -> DecoderSpec | None:
    try:
        return None if text is None else read_decoder(text)
    except UsageError as error:
        raise UsageError(f"--decoder {text}: {error}") from error


def _labels(text: str) -> tuple[str, ...]:
    """Return the lines of a file, or what is between commas.

    >>> _labels("off, on")
    ('off', 'on')
    """
    lines = text.split(",")
    if Path(text).is_file():
        try:
            lines = read_file(Path(text), MOST_LABELS).decode().splitlines()
        except (OSError, ValueError) as error:
            raise UsageError(f"--labels {text} cannot be read: {error}") from error
    labels = tuple(line.strip() for line in lines)
    if labels and not labels[-1]:
        labels = labels[:-1]  # behind the last end of a line
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if not labels or not all(labels) or twice is not None:
        found = f"'{twice}' is there twice" if twice else "one is empty"
        raise UsageError(f"--labels {text}: expected names between commas, or a file with one a line; {found}")
    return labels
