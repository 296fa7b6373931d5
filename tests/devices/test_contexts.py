"""What a stream is given once, in a runner: a file that adds it to what it sums up."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgernn.artifact import ModelFile
from edgernn.devices.runner import open_model
from edgernn.errors import ShapeError, StepError
from edgernn.quantize.graph import Builder
from edgernn.quantize.streaming import stream
from edgernn.stream import FrameStream, Runner
from edgernn.testing import check_runner

HELD = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def windowed(tmp_path: Path, batch: int = 1) -> Runner:
    """Sums of three frames, each with the sum of three places of a memory."""
    builder = Builder("held")
    x, memory = builder.input("x", ["batch", "time", 2]), builder.input("memory", ["batch", 3, 2])
    delayed = builder.op(
        "Conv", builder.op("Transpose", x, perm=[0, 2, 1]), builder.constant(np.ones((2, 1, 3))), group=2
    )
    seen = builder.op("Transpose", delayed, perm=[0, 2, 1])
    builder.output(builder.op("Add", seen, builder.op("ReduceSum", memory, builder.constant([1]), keepdims=1)), "y")
    step = stream(builder.finish(), batch=batch)
    path = tmp_path / "step.onnx"
    path.write_bytes(ir.to_proto(step.model).SerializeToString())
    return open_model(ModelFile("onnx", path, "float32", step.spec(), path.stat().st_size))


def test_the_runner_keeps_its_protocol(tmp_path: Path) -> None:
    for batch in (1, 3):
        check_runner(partial(windowed, tmp_path, batch))


def test_a_reset_keeps_the_context_or_brings_another(tmp_path: Path) -> None:
    stream_of = FrameStream(windowed(tmp_path))
    frames = np.arange(10, dtype=np.float32).reshape(5, 2)
    windows = frames[:-2] + frames[1:-1] + frames[2:]
    stream_of.reset({"memory": HELD})
    np.testing.assert_array_equal(stream_of.push(frames)[0], windows + HELD.sum(0))
    stream_of.reset()
    np.testing.assert_array_equal(stream_of.push(frames)[0], windows + HELD.sum(0))
    stream_of.reset({"memory": 2 * HELD})
    np.testing.assert_array_equal(stream_of.push(frames)[0], windows + 2 * HELD.sum(0))


def test_no_step_without_one(tmp_path: Path) -> None:
    runner = windowed(tmp_path, batch=2)
    frame = np.zeros((2, 1, 2), np.float32)
    for missing in ("0, 1", "1"):
        with pytest.raises(StepError, match=f"none was given of the streams {missing}: .*'memory': \\(3, 2\\)"):
            runner.step(frame)
        with pytest.raises(StepError, match="none was given"):
            runner.snapshot()
        runner.reset(0, {"memory": HELD})
    runner.reset(1, {"memory": 2 * HELD})
    for _ in range(3):
        (found,) = runner.step(frame)
    np.testing.assert_array_equal(found[:, 0], [[9, 12], [18, 24]])
    runner.close()
    with pytest.raises(StepError, match="closed"):
        runner.step(frame)


def test_a_stream_changes_its_own_alone(tmp_path: Path) -> None:
    runner = windowed(tmp_path, batch=2)
    runner.reset(context={"memory": np.stack([HELD, 2 * HELD])})
    frames = np.random.default_rng(0).standard_normal((9, 2, 1, 2)).astype(np.float32)
    whole = [runner.step(frame)[0].copy() for frame in frames]
    runner.reset(context={"memory": np.stack([HELD, 2 * HELD])})
    for frame in frames[:4]:
        runner.step(frame)
    kept = runner.snapshot(1)
    runner.reset(1, {"memory": 7 * HELD})
    after = [runner.step(frame)[0].copy() for frame in frames[4:]]
    for one, other in zip(after, whole[4:], strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    assert np.abs(after[-1][1] - whole[-1][1]).max() > 1
    runner.restore(kept, 1)
    again = [runner.step(frame)[0].copy() for frame in frames[4:]]
    for one, other in zip(again, whole[4:], strict=True):
        np.testing.assert_array_equal(one[1], other[1], "a snapshot has the context, too")


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        ({}, "takes the contexts memory, found nothing"),
        ({"memory": HELD, "other": HELD}, "found memory, other"),
        ({"memory": HELD[:2]}, r"shape \(3, 2\).*found \(2, 2\)"),
        ({"memory": np.full((3, 2), np.nan)}, "takes finite numbers"),
        ({"memory": np.full((3, 2), "a")}, "takes finite numbers"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, context: dict[str, np.ndarray], reason: str) -> None:
    runner = windowed(tmp_path)
    runner.reset(context={"memory": HELD})
    with pytest.raises(ShapeError, match=reason):
        runner.reset(context=context)
    for _ in range(3):
        (found,) = runner.step(np.zeros((1, 2), np.float32))
    np.testing.assert_array_equal(found[0], [[9, 12]], "nothing changed")
