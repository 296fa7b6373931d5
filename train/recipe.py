"""A recipe: all that decides how a training goes, frozen, to and from a small TOML file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from edgernn.errors import DataError, UsageError
from edgernn.files import check_there

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "AugmentRecipe",
    "DecoderRecipe",
    "FitRecipe",
    "ModelRecipe",
    "Recipe",
    "fine_tuning",
    "preset",
    "read_recipe",
    "write_recipe",
]

Part = TypeVar("Part")


def _require(fine: bool, what: str, value: object) -> None:
    if not fine:
        raise UsageError(f"{what}, not {value}")


@dataclass(frozen=True)
class ModelRecipe:
    """The network."""

    kind: str = "crnn"
    """"crnn", "gru" or "lstm"."""
    conv_filters: tuple[int, ...] = (96, 128)
    """Filters of each strided convolution; only "crnn" has them."""
    conv_kernel: int = 5
    """Frames that a strided convolution sees."""
    conv_blocks: int = 0
    """Residual blocks, each a convolution over three frames, after each strided convolution."""
    units: tuple[int, ...] = (128,)
    """Units of each recurrent layer."""
    dropout: float = 0.25
    """Share of features dropped before each recurrent layer and before the last one."""

    def __post_init__(self) -> None:
        sizes = (*self.units, *self.conv_filters, self.conv_kernel)
        _require(bool(self.units) and min(sizes) > 0, "model.units and conv_filters must be sizes above zero", sizes)
        _require(0.0 <= self.dropout < 1.0, "model.dropout must be at least 0 and below 1", self.dropout)


@dataclass(frozen=True)
class AugmentRecipe:
    """What is done to a clip, anew each time it is used."""

    context: float = 0.5
    """Share of the batches in which about a second of other sound comes before the clip, as in a live stream."""
    shift_ms: float = 100.0
    """The clip begins up to this much earlier or later."""
    lag_ms: float = 400.0
    """After context, the stream goes on for up to this long after the clip."""
    speed: float = 0.12
    """The clip is played up to this share faster or slower, which changes its pitch too."""
    gain_db: tuple[float, float] = (-10.0, 10.0)
    """Range of how much louder the whole stream is made."""
    noise: float = 0.8
    """Share of the streams with background noise."""
    snr_db: tuple[float, float] = (3.0, 30.0)
    """Range of the signal-to-noise ratio."""
    tilt_db: float = 6.0
    """Size of a random smooth change of the spectrum, as another microphone or room would make."""
    masks: int = 2
    """SpecAugment masks (Park et al. 2019, arXiv:1904.08779) of each kind."""
    mask_bands: int = 6
    """Bands that a frequency mask covers at most."""
    mask_frames: int = 12
    """Frames that a time mask covers at most."""

    def __post_init__(self) -> None:
        _require(0.0 <= self.context <= 1.0, "augment.context must be a share", self.context)
        _require(0.0 <= self.noise <= 1.0, "augment.noise must be a share", self.noise)
        _require(0.0 <= self.speed < 0.9, "augment.speed must be at least 0 and below 0.9", self.speed)
        for name, limits in (("snr_db", self.snr_db), ("gain_db", self.gain_db)):
            in_order = len(limits) == 2 and limits[0] <= limits[1]
            _require(in_order, f"augment.{name} must be the lower and the upper limit", limits)


@dataclass(frozen=True)
class FitRecipe:
    """The optimisation: AdamW, warm-up and cosine decay, an average of the weights, early stopping."""

    epochs: int = 180
    batch: int = 64
    """Streams in a batch."""
    examples: int = 3520
    """Streams in an epoch; each is made anew."""
    learning_rate: float = 3e-3
    """At its peak."""
    warmup_epochs: float = 3.0
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    """Longest gradient, all weights together."""
    label_smoothing: float = 0.1
    average: float = 0.998
    """Momentum of the moving average of the weights, per step; what is kept is the average."""
    patience: int = 40
    """Epochs without a better dev accuracy or loss after which training stops."""
    quantize_aware: str = ""
    """"int8" or "int4": the network is trained to be converted to that; empty for none."""

    def __post_init__(self) -> None:
        _require(
            self.quantize_aware in ("", "int8", "int4"), "fit.quantize_aware must be int8 or int4", self.quantize_aware
        )
        for name in ("epochs", "batch", "examples", "learning_rate", "clip_norm", "patience"):
            value = getattr(self, name)
            least = 1 if isinstance(value, int) else 1e-9
            _require(value >= least, f"fit.{name} must be at least {least}", value)
        _require(0.0 <= self.average < 1.0, "fit.average must be at least 0 and below 1", self.average)


@dataclass(frozen=True)
class DecoderRecipe:
    """How the device turns posteriors into words; travels in the artifact."""

    smoothing_ms: float = 160.0
    threshold: float = 0.7
    refractory_ms: float = 800.0


@dataclass(frozen=True)
class Recipe:
    """One training; `words` are the classes beside "unknown" and "silence"."""

    words: tuple[str, ...] = ()
    task: str = "keyword-spotting"
    name: str = ""
    """What the artifact is called; empty for the run folder's name."""
    seed: int = 1
    rate_hz: int = 16000
    window_ms: float = 25.0
    hop_ms: float = 10.0
    bands: int = 40
    dev_share: float = 0.12
    """Share of the speakers that are dev, where no index says it."""
    model: ModelRecipe = field(default_factory=ModelRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    fit: FitRecipe = field(default_factory=FitRecipe)
    decoder: DecoderRecipe = field(default_factory=DecoderRecipe)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as TOML has them."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Fill a recipe from plain values; raise `UsageError` naming a key or a value that does not fit."""
        return _fill(cls(), values, "")


_LONG_LOOPS = FitRecipe(epochs=60, learning_rate=2e-3)  # four times the steps of a CRNN, so fewer epochs

PRESETS = {
    "crnn": Recipe(),
    "gru": Recipe(model=ModelRecipe("gru", conv_filters=(), units=(128, 128)), fit=_LONG_LOOPS),
    "lstm": Recipe(model=ModelRecipe("lstm", conv_filters=(), units=(112, 96)), fit=replace(_LONG_LOOPS, epochs=90)),
}


def preset(kind: str) -> Recipe:
    """Return the recipe that suits a model of `kind`, without words; raise `UsageError` if there is no such model.

    >>> preset("gru").model.units
    (128, 128)
    """
    if kind not in PRESETS:
        raise UsageError(f"there is no model '{kind}'; the models are: {', '.join(PRESETS)}")
    return PRESETS[kind]


def fine_tuning(recipe: Recipe) -> Recipe:
    """Return the recipe of a short training that starts from the weights of one with `recipe`.

    >>> fine_tuning(Recipe()).fit.epochs
    6
    """
    fit = replace(recipe.fit, epochs=6, learning_rate=0.1 * recipe.fit.learning_rate, warmup_epochs=0.5)
    return replace(recipe, fit=fit)


def read_recipe(path: Path) -> Recipe:
    """Read a TOML recipe; keys it lacks keep their defaults. Raises `UsageError` for what is not there or no recipe."""
    check_there(path, "a recipe in TOML, such as the recipe.toml of a run")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the recipe {path} is not TOML: {error}") from error
    try:
        return Recipe.from_dict(values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe as TOML."""
    import tomli_w

    path.write_text(tomli_w.dumps(recipe.to_dict()), encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(element) for key, element in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _fill(default: Part, values: Mapping[str, Any], where: str) -> Part:
    known = {part.name: getattr(default, part.name) for part in fields(default)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        table = f"[{where}]" if where else "the recipe"
        raise UsageError(f"{table} has the unknown key {', '.join(unknown)}; the keys are: {', '.join(known)}")
    changes = {name: _fit(known[name], value, f"{where}.{name}".lstrip(".")) for name, value in values.items()}
    return replace(default, **changes)  # type: ignore[type-var]


def _fit(default: Any, value: Any, where: str) -> Any:
    """Return `value` in the type of `default`, or raise `UsageError`."""
    if hasattr(default, "__dataclass_fields__") and isinstance(value, Mapping):
        return _fill(default, value, where)
    if isinstance(default, tuple) and isinstance(value, list):
        example = default[0] if default else ""
        return tuple(_fit(example, element, where) for element in value)
    if isinstance(default, float) and type(value) in (int, float):
        return float(value)
    if type(value) is type(default):
        return value
    raise UsageError(f"{where} is {value!r}, expected a value like {_plain(default)!r}")
