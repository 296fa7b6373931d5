"""Every error that EdgeRNN raises on purpose.

EdgeRNNError
├── UsageError               the caller asked for something that makes no sense (exit status 2)
│   └── MissingDependencyError   the package that was asked for is not installed
└── FailureError             the world did not play along (exit status 1)
    ├── ArtifactError        an artifact is corrupt, incomplete, or of an unknown format
    │   └── SignatureError   … or not signed by anybody who is trusted
    ├── BoardError           a board cannot be reached, or lacks what is needed there
    ├── ConversionError      a model cannot be turned into a streaming artifact
    │   ├── UnsupportedLayerError   it has a layer or operator without a streaming rule
    │   └── ToleranceError   it was converted, and differs too much from its source
    ├── DataError            a training set is missing something or broken
    ├── ShapeError           an array has the wrong shape, dtype, or NaN in it
    ├── SinkError            an event may not have arrived where it was to go
    │   └── RefusedError     … and will not, however often it is sent
    ├── SourceError          a source cannot be opened or read, or stopped delivering
    │   └── AudioError       … which is a recording or a microphone
    ├── StepError            a runtime failed in the middle of a stream
    └── VerificationError    an artifact gives other results here than where it was made

A message says what is wrong, where, what was expected, what was found, and what to do.
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "AudioError",
    "BoardError",
    "ConversionError",
    "DataError",
    "EdgeRNNError",
    "FailureError",
    "MissingDependencyError",
    "NotThereError",
    "RefusedError",
    "ShapeError",
    "SignatureError",
    "SinkError",
    "SourceError",
    "StepError",
    "ToleranceError",
    "UnsupportedLayerError",
    "UsageError",
    "VerificationError",
]


class EdgeRNNError(Exception):
    """Base of all errors of this package; `exit_status` is what the command line ends with."""

    exit_status = 1
    key: str = ""
    """Which key of a configuration has the mistake, where that is known."""


class UsageError(EdgeRNNError):
    """The request itself is wrong: an unknown option value, a contradiction."""

    exit_status = 2


class NotThereError(UsageError):
    """A path leads to nothing; where it led to something before, whoever asks may wait for it."""


class MissingDependencyError(UsageError):
    """An optional package is needed and not installed.

    >>> print(MissingDependencyError("reading FLAC", "soundfile", "audio"))
    reading FLAC needs the package soundfile, which is not installed: pip install 'edgernn[audio]'
    """

    def __init__(self, purpose: str, package: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed: pip install 'edgernn[{extra}]'"
        )


class FailureError(EdgeRNNError):
    """The request is fine; what it met is not."""


class ArtifactError(FailureError):
    """An artifact is corrupt, incomplete, or of an unknown format."""


class SignatureError(ArtifactError):
    """An artifact is not signed by anybody who is trusted, or was changed since."""


class BoardError(FailureError):
    """A board cannot be reached over SSH, or lacks what is needed there."""


class ConversionError(FailureError):
    """A model cannot be turned into a streaming artifact."""


class UnsupportedLayerError(ConversionError):
    """A layer or operator has no streaming rule, or none for its settings."""


class ToleranceError(ConversionError):
    """The converted model differs from its source by more than the tolerance."""


class DataError(FailureError):
    """A data set is missing something or broken."""


class ShapeError(FailureError):
    """An array does not fit: its shape, its dtype, or NaN among its values."""


class SinkError(FailureError):
    """An event may not have arrived where it was to go; it can be sent again."""

    wait_s: float = 0.0
    """How long whoever is to take it asks to be left alone."""


class RefusedError(SinkError):
    """An event was refused by where it was to go, and would be however often it is sent."""


class SourceError(FailureError):
    """A source cannot be opened or read, or stopped delivering; `for_good`: opening it again is in vain."""

    def __init__(self, message: str, for_good: bool = False) -> None:
        super().__init__(message)
        self.for_good = for_good


class AudioError(SourceError):
    """A recording or a microphone cannot be read."""


class StepError(FailureError):
    """A runtime failed in the middle of a stream."""


class VerificationError(FailureError):
    """An artifact gives other results on this machine than it was proven with."""
