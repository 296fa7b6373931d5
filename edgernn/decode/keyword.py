"""Keyword spotting: scores of words, step by step, to words that were said."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import compress
from math import exp, inf
from operator import ge
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import ArtifactError, ShapeError, UsageError
from edgernn.events import Keyword

__all__ = ["LONGEST_SMOOTHING_MS", "KeywordDecoder", "KeywordSpec"]

DEFAULT_THRESHOLD = 0.6
ROUNDING = 1e-9  # of averages
LONGEST_SMOOTHING_MS = 10_000.0
LOOK_AHEAD_S = 1.0  # how far ahead it is looked whether a word can be decided: each step of it costs
LOOK_BACK_S = 2.0  # how far back the beginning of a word is looked for


@dataclass(frozen=True)
class KeywordSpec:
    """How scores become words; raises `UsageError` where the values make no sense.

    >>> KeywordSpec(threshold={"left": 0.8}).threshold_of("left")
    0.8
    """

    activation: str = "softmax"
    """"softmax" where the model gives logits, "none" where it gives posteriors."""
    smoothing_ms: float = 100.0
    """Posteriors are averaged over this time; below one step, they are not averaged."""
    threshold: float | Mapping[str, float] = DEFAULT_THRESHOLD
    """Averaged posterior at which a word counts as said; one for all, or one a word (0.6 if not named)."""
    refractory_ms: float = 800.0
    """Time after a word in which the same word is not reported again."""
    ignore: tuple[str, ...] = ("unknown", "silence")
    """Labels that are never reported."""

    def __post_init__(self) -> None:
        if self.activation not in ("softmax", "none"):
            raise UsageError(f"the decoder's activation must be 'softmax' or 'none', not {self.activation!r}")
        for name in ("smoothing_ms", "refractory_ms"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"the decoder's {name} must be zero or more, not {getattr(self, name)}")
        if self.smoothing_ms > LONGEST_SMOOTHING_MS:
            raise UsageError(
                f"the decoder's smoothing_ms must be at most {LONGEST_SMOOTHING_MS:g}, not {self.smoothing_ms}: "
                "each step costs as much as there is to average"
            )
        named = self.threshold if isinstance(self.threshold, Mapping) else {"every word": self.threshold}
        for word, value in named.items():
            if not 0 < value <= 1:
                raise UsageError(f"the threshold of {word} must be above 0 and at most 1, not {value}")

    def threshold_of(self, word: str) -> float:
        """Return the threshold of one word."""
        if isinstance(self.threshold, Mapping):
            return self.threshold.get(word, DEFAULT_THRESHOLD)
        return self.threshold

    def with_threshold(self, threshold: float | Mapping[str, float], labels: Sequence[str]) -> KeywordSpec:
        """Return the same with another threshold for all words, or for some of `labels`.

        >>> KeywordSpec(threshold=0.5).with_threshold({"up": 0.9}, ["up", "down"]).threshold
        {'up': 0.9, 'down': 0.5}
        """
        _check_words(threshold, labels)
        if isinstance(threshold, Mapping):
            threshold = {**{label: self.threshold_of(label) for label in labels}, **threshold}
        return replace(self, threshold=threshold)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, as they stand in a manifest."""
        return {"kind": "keyword", **asdict(self), "ignore": list(self.ignore)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> KeywordSpec:
        """Read what `to_dict` wrote, defaults for missing keys; raise `ArtifactError` if it does not fit."""
        given = dict(values)
        if given.pop("kind", None) != "keyword":
            raise ArtifactError('the decoder in the manifest is not of the "kind" "keyword", the only one known')
        unknown = sorted(set(given) - {field.name for field in fields(cls)})
        if unknown:
            raise ArtifactError(f"the decoder in the manifest has unknown keys: {', '.join(unknown)}")
        try:
            return cls(**{**given, "ignore": tuple(given.get("ignore", cls.ignore))})
        except (TypeError, ValueError, UsageError) as error:
            raise ArtifactError(f"the decoder in the manifest is malformed: {error}") from error


def _check_words(threshold: float | Mapping[str, float], labels: Sequence[str]) -> None:
    strangers = sorted(set(threshold) - set(labels)) if isinstance(threshold, Mapping) else []
    if strangers:
        raise UsageError(f"a threshold is set for {', '.join(strangers)}, and the labels are: {', '.join(labels)}")


class KeywordDecoder:
    """Finds words in a stream of scores. Not for several threads at once.

    A word is reported at the first step where its posterior, averaged over `smoothing_ms`, reaches its threshold;
    and again only once its average has been below the threshold, and `refractory_ms` have passed. Nothing is known
    before the stream, so the average counts that as zeros.

    Plain numbers and lists: for a dozen labels they take half of NumPy's time where a step finds cold caches, as it
    does in a stream at its own pace.
    """

    def __init__(self, spec: KeywordSpec, labels: Sequence[str], step_seconds: float) -> None:
        _check_words(spec.threshold, labels)
        if not step_seconds > 0:
            raise UsageError(f"a step must last more than zero seconds, not {step_seconds}")
        self.spec = spec
        self.labels = tuple(labels)
        self.step_seconds = step_seconds
        self._refractory = spec.refractory_ms / 1000 / step_seconds
        self._thresholds = [inf if label in spec.ignore else spec.threshold_of(label) for label in labels]
        self._softmax = spec.activation == "softmax"
        self._shape = (len(labels),)
        self._length = max(1, round(spec.smoothing_ms / 1000 / step_seconds))
        self._recent: deque[list[float]] = deque(maxlen=self._length)
        self._averages: deque[list[float]] = deque(maxlen=max(self._length, round(LOOK_BACK_S / step_seconds)))
        self.reset()

    @property
    def averages(self) -> NDArray[np.float32]:
        """A copy of the averaged posteriors `(labels,)` of the latest step, for whoever looks on."""
        return np.array(self._averages[-1] if self._averages else [0.0] * len(self.labels), np.float32)

    @property
    def thresholds(self) -> dict[str, float]:
        """The threshold of each word that is reported."""
        return {label: self.spec.threshold_of(label) for label in self.labels if label not in self.spec.ignore}

    @property
    def quiet_s(self) -> float:
        """How long from now, seconds, until a word can be decided at the earliest, whatever the posteriors will be.

        None is above 1, so that an average needs steps to rise, and a word that was just reported is not again for a
        while: what lies before the last of these steps can be heard late.
        """
        if not self._softmax:  # nobody knows how high they can be
            return self.step_seconds
        most = min(self._length, max(1, round(LOOK_AHEAD_S / self.step_seconds)))
        steps = next((steps for steps in range(1, most) if self._can_report(steps)), most)
        return steps * self.step_seconds

    def _can_report(self, steps: int) -> bool:
        """Tell whether so many posteriors of 1 would bring an average to its threshold."""
        kept = [*self._recent][steps - self._length :] or [[0.0] * len(self.labels)]
        sums = map(sum, zip(*kept))  # noqa: B905 (as in push)
        limits = [limit * self._length - steps - ROUNDING for limit in self._thresholds]
        can_rise = compress(range(len(limits)), map(ge, sums, limits))
        return any(self._rested(index, self._steps + steps) for index in can_rise)

    def _rested(self, index: int, step: int) -> bool:
        """Tell whether a word was reported so long before a step that it may be again."""
        return step - self._reported.get(index, -inf) >= self._refractory

    def reset(self) -> None:
        """Forget the stream; the next step is its first."""
        self._recent.clear()
        self._averages.clear()
        self._steps = 0
        self._reported: dict[int, int] = {}  # label to the step at which it was reported last
        self._held: set[int] = set()  # labels that were reported and have not been below their threshold since

    def push(self, scores: NDArray[np.floating[Any]]) -> Keyword | None:
        """Take the scores `(labels,)` of one step, logits or posteriors; return the word that was decided, if any.

        Raises `ShapeError` for another shape.
        """
        if scores.shape != self._shape:
            raise ShapeError(
                f"the decoder takes {len(self.labels)} scores, one a label; found an array of shape {scores.shape}"
            )
        row = scores.tolist()
        if self._softmax:
            most = max(row)
            row = [exp(score - most) for score in row]
            total = sum(row)
            row = [part / total for part in row]
        self._recent.append(row)
        length = self._length
        averages = [sum(column) / length for column in zip(*self._recent)]  # noqa: B905 (all are as long; checked above)
        self._averages.append(averages)
        self._steps += 1
        thresholds = self._thresholds
        if self._held:
            self._held = {index for index in self._held if not averages[index] < thresholds[index]}
        if any(map(ge, averages, thresholds)):
            return self._report(averages)
        return None

    def _report(self, averages: list[float]) -> Keyword | None:
        """Return the best of the words that are above their threshold and not held back."""
        ready = [
            (average, index)
            for index, (average, threshold) in enumerate(zip(averages, self._thresholds, strict=True))
            if average >= threshold and index not in self._held and self._rested(index, self._steps)
        ]
        if not ready:
            return None
        score, index = max(ready)
        self._held.add(index)
        self._reported[index] = self._steps
        return Keyword(
            word=self.labels[index],
            score=round(score, 4),
            start_s=round((self._steps - self._rising(index)) * self.step_seconds, 4),
            end_s=round(self._steps * self.step_seconds, 4),
        )

    def _rising(self, index: int) -> int:
        """Return for how many steps, this one included, the average has been above half the threshold."""
        half = 0.5 * self._thresholds[index]
        for back, averages in enumerate(reversed(self._averages)):
            if averages[index] < half:
                return back
        return len(self._averages)
