"""Opening the step of an artifact: which runtime, and is it there?"""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib.util import find_spec
from typing import NamedTuple

from edgernn.artifact import Artifact, ModelFile
from edgernn.devices.providers import PROVIDERS, fastest
from edgernn.devices.run_litert import open_litert, open_tflite_runtime
from edgernn.devices.run_onnx import open_onnxruntime
from edgernn.endless import unbounded
from edgernn.errors import ArtifactError, MissingDependencyError, UsageError
from edgernn.stream import Runner

__all__ = [
    "CHOICES", "RUNTIMES", "Runtime", "find_runtime", "open_model", "open_runner", "runtime_for", "runtime_on",
]  # fmt: skip


class Runtime(NamedTuple):
    """What EdgeRNN must know of a runtime before importing it."""

    format: str
    module: str
    """What is imported."""
    package: str
    extra: str
    open: Callable[[ModelFile, int], Runner]


RUNTIMES = {
    "litert": Runtime("tflite", "ai_edge_litert.interpreter", "ai-edge-litert", "litert", open_litert),
    "tflite-runtime": Runtime("tflite", "tflite_runtime.interpreter", "tflite-runtime", "tflite", open_tflite_runtime),
    "onnxruntime": Runtime("onnx", "onnxruntime", "onnxruntime", "onnx", open_onnxruntime),
}
"""In the order of preference: a TFLite step costs a third of an ONNX Runtime one."""
ON_PROVIDERS = "onnxruntime"
CHOICES = (*PROVIDERS, "auto")
"""Execution providers that can be asked for."""


def open_runner(artifact: Artifact, runtime: str | None = None, threads: int = 1) -> Runner:
    """Open the program "step" of an artifact in `runtime`, or else in the first that is installed and fits.

    Raises `MissingDependencyError` or `UsageError` when there is none, `ArtifactError` when the model file is not
    what the manifest says.
    """
    formats = artifact.programs.get("step", {})
    return open_model(artifact.model(find_runtime(runtime_for(runtime, formats)).format), runtime, threads)


def open_model(model: ModelFile, runtime: str | None = None, threads: int = 1) -> Runner:
    """Open one model file; see `open_runner`. Raises `ArtifactError` also for a step that may never end."""
    if threads < 1:
        raise UsageError(f"the number of threads must be at least 1, not {threads}")
    name = runtime_for(runtime, (model.format,))
    chosen, provider = find_runtime(name), name.partition(":")[2]
    if chosen.format != model.format:
        raise UsageError(f"{runtime} runs {chosen.format} files, and {model.path} is {model.format}")
    reason = unbounded(model.format, model.path.read_bytes())
    if reason:
        raise ArtifactError(
            f"{model.path} cannot be opened: {reason}; no artifact of edgernn convert is like that, get it again"
        )
    return open_onnxruntime(model, threads, provider) if provider else chosen.open(model, threads)


def find_runtime(name: str) -> Runtime:
    """Return a runtime; of a name like "onnxruntime:cuda", the one before the colon."""
    return RUNTIMES[name.partition(":")[0]]


def runtime_on(artifact: Artifact, runtime: str | None, provider: str | None, threads: int = 1) -> str | None:
    """Return the name of ONNX Runtime on an execution provider, as in "onnxruntime:cuda"; `runtime` without one.

    "auto" becomes the provider that takes the least time for a step here and now.
    """
    if provider is None:
        return runtime
    if runtime not in (None, ON_PROVIDERS):
        raise UsageError(f"execution providers are ONNX Runtime's, and the runtime is {runtime}: leave one out")
    if provider == "auto":
        _need(ON_PROVIDERS)
        provider = fastest(artifact.model(RUNTIMES[ON_PROVIDERS].format), threads)[0]
    return f"{ON_PROVIDERS}:{provider}"


def runtime_for(wanted: str | None, formats: Collection[str]) -> str:
    """Return the name of the runtime to use for a model in any of `formats`."""
    if wanted is not None:
        name, colon, provider = wanted.partition(":")
        if name not in RUNTIMES or (colon and (name != ON_PROVIDERS or provider not in PROVIDERS)):
            raise UsageError(f"there is no runtime '{wanted}'; the runtimes are: {', '.join(RUNTIMES)}")
        _need(name)
        return wanted
    fitting = [name for name, runtime in RUNTIMES.items() if runtime.format in formats]
    for name in fitting:
        if _installed(name):
            return name
    extras = " or ".join(f"'edgernn[{RUNTIMES[name].extra}]'" for name in fitting)
    raise UsageError(f"no runtime for {' or '.join(formats)} is installed ({', '.join(fitting)}): pip install {extras}")


def _need(name: str) -> None:
    runtime = RUNTIMES[name]
    if not _installed(name):
        raise MissingDependencyError(f"--runtime {name}", runtime.package, runtime.extra)


def _installed(name: str) -> bool:
    return find_spec(RUNTIMES[name].module.partition(".")[0]) is not None
