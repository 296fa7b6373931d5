"""Pictures made into the frames that a model takes: size, colours, order of axes, and range of values."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgernn.errors import MissingDependencyError, UsageError

__all__ = ["PictureOptions", "Preparer", "opencv"]

FITS = ("stretch", "crop", "pad")
COLOURS = {"gray": 1, "rgb": 3, "bgr": 3}
LAYOUTS = ("hwc", "chw")


@dataclass(frozen=True)
class PictureOptions:
    """How a picture becomes a frame; what is left out follows from the model's input."""

    size: str = ""
    """WIDTHxHEIGHT, where the model takes all pixels in a row."""
    colors: str = ""
    """"gray", "rgb" or "bgr"; by default gray for one channel, rgb for three."""
    layout: str = ""
    """"hwc" or "chw"; by default where the channels are."""
    fit: str = "stretch"
    """A picture of another proportion: "stretch" it, "crop" it to the middle, or "pad" it with black."""
    mean: tuple[str, ...] = ()
    """What is subtracted after pixels were brought to 0 … 1: one number, or one a channel (by default 0)."""
    std: tuple[str, ...] = ()
    """What that is divided by (by default 1). With mean=0.5 and std=0.5, values are from -1 to 1."""


class Preparer:
    """Pictures `(height, width, 3)`, BGR, 8 bits, to frames `(1, *shape)`, float32."""

    def __init__(self, options: PictureOptions, shape: tuple[int, ...]) -> None:
        self._cv2: Any = opencv()
        self._shape, self._options = shape, options
        self.height, self.width, channels = self._find_size()
        self._colors = options.colors or {1: "gray", 3: "rgb"}.get(channels, "")
        if options.fit not in FITS or COLOURS.get(self._colors) != channels:
            raise UsageError(
                f"a picture can be one of {', '.join(COLOURS)} and fit by one of {', '.join(FITS)}; the model takes "
                f"{channels} channels, and the options say colors '{self._colors}', fit '{options.fit}'"
            )
        self._mean, self._std = self._numbers("mean", 0.0, channels), self._numbers("std", 1.0, channels)
        if not self._std.all():
            raise UsageError("the option std of a picture must not be zero")

    def _find_size(self) -> tuple[int, int, int]:
        """Return height, width and channels."""
        shape, options = self._shape, self._options
        if len(shape) == 1 and options.size:
            width, _, height = options.size.partition("x")
            if width.isdecimal() and height.isdecimal() and shape[0] in (area := int(width) * int(height), 3 * area):
                self._first = options.layout == "chw"
                return int(height), int(width), shape[0] // area
            raise UsageError(f"the model takes {shape[0]} values, and size '{options.size}' has not as many pixels")
        if len(shape) == 2:
            self._first = False
            return shape[0], shape[1], 1
        self._first = options.layout == "chw" or (not options.layout and len(shape) == 3 and shape[2] not in (1, 3))
        if len(shape) != 3 or options.layout not in ("", *LAYOUTS) or shape[0 if self._first else 2] not in (1, 3):
            hint = ": say the size, as in size=28x28" if len(shape) == 1 else ""
            raise UsageError(f"the model takes frames of shape {shape}, which is no picture{hint}")
        return (shape[1], shape[2], shape[0]) if self._first else (shape[0], shape[1], shape[2])

    def _numbers(self, name: str, default: float, channels: int) -> NDArray[np.float32]:
        texts = getattr(self._options, name) or (str(default),)
        try:
            numbers = [float(text) for text in texts]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, channels) or not all(map(math.isfinite, numbers)):
            raise UsageError(f"the option {name} of a picture must be one number or {channels}, not {','.join(texts)}")
        return np.array(numbers, np.float32)

    def frame(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the frame of one picture, BGR or gray."""
        fitted = self._fit(picture)
        if self._colors == "gray":
            gray = fitted if fitted.ndim == 2 else self._cv2.cvtColor(fitted, self._cv2.COLOR_BGR2GRAY)
            fitted = gray[..., None]
        else:
            fitted = np.repeat(fitted[..., None], 3, axis=2) if fitted.ndim == 2 else fitted
            fitted = fitted[..., ::-1] if self._colors == "rgb" else fitted
        values = (fitted.astype(np.float32) / np.float32(255) - self._mean) / self._std
        ordered = values.transpose(2, 0, 1) if self._first else values
        return np.ascontiguousarray(ordered, np.float32).reshape(1, *self._shape)

    def _fit(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = picture.shape[:2]
        if self._options.fit != "stretch":
            choose = max if self._options.fit == "crop" else min
            scale = choose(self.width / width, self.height / height)
            picture = self._resized(picture, max(1, round(width * scale)), max(1, round(height * scale)))
            return self._padded(self._cropped(picture))
        return self._resized(picture, self.width, self.height)

    def _resized(self, picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
        if picture.shape[:2] == (height, width):
            return picture
        smaller = height * width < picture.shape[0] * picture.shape[1]
        kind = self._cv2.INTER_AREA if smaller else self._cv2.INTER_LINEAR
        resized: NDArray[np.uint8] = self._cv2.resize(picture, (width, height), interpolation=kind)
        return resized

    def _cropped(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        top = max(0, (picture.shape[0] - self.height) // 2)
        left = max(0, (picture.shape[1] - self.width) // 2)
        return picture[top : top + self.height, left : left + self.width]

    def _padded(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        result = np.zeros((self.height, self.width, *picture.shape[2:]), np.uint8)
        top, left = (self.height - picture.shape[0]) // 2, (self.width - picture.shape[1]) // 2
        result[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        return result


def opencv() -> Any:
    """Return OpenCV; raise `MissingDependencyError` without it."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # we say ourselves what is wrong, as lines of our own log
    try:
        import cv2
    except ImportError as error:
        raise MissingDependencyError("pictures", "opencv-python-headless", "camera") from error
    return cv2
