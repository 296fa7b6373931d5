"""The edgernn command: names the subcommands, and imports one when it is chosen."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from edgernn import __version__
from edgernn.errors import EdgeRNNError, UsageError
from edgernn.text import without_passwords

__all__ = ["main"]

# name: (module with a `main(arguments, prog) -> exit status`, one line for --help, extra it needs)
COMMANDS = {
    "train": ("edgernn.train.cli", "train a model for a task on the desktop", "train"),
    "convert": ("edgernn.quantize.cli", "turn a trained model into a proven streaming artifact", "convert"),
    "inspect": ("edgernn.devices.inspect", "show what an artifact holds, and check it", ""),
    "verify": ("edgernn.devices.verify", "prove an artifact again on this machine", ""),
    "sign": ("edgernn.devices.sign", "vouch for an artifact with a key", ""),
    "run": ("edgernn.devices.run", "run an artifact on a recording or live sound", ""),
    "serve": ("edgernn.devices.serve", "run pipelines for months, as a configuration says", "serve"),
    "install-service": ("edgernn.devices.install_service", "have systemd run such a configuration", "serve"),
    "doctor": ("edgernn.devices.doctor", "tell what board this is, and what to mend on it", ""),
    "evaluate": ("edgernn.devices.evaluate", "measure the accuracy of an artifact on labelled recordings", ""),
    "profile": ("edgernn.devices.profile", "measure latency and memory of an artifact, here or on boards", ""),
    "compare": ("edgernn.devices.compare", "tell whether one profile is faster than another, and how sure that is", ""),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (0 success, 1 failure, 2 misuse, 130 interrupted).

    A path that leads nowhere is misuse; what is there and broken, a failure.
    """
    _hold_closed_streams()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    name = " ".join(["edgernn", *arguments[:1]])
    try:
        return _run(arguments)
    except EdgeRNNError as error:
        print(f"{name}: error: {without_passwords(str(error))}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away; Python would complain at exit
        return 128 + signal.SIGPIPE
    except MemoryError as error:
        print(f"{name}: error: there is not enough memory: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except OSError as error:  # no bug: a full disk, a cable that was pulled
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"{name}: error: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    finally:
        _drop_unwritable_output()


def _hold_closed_streams() -> None:
    """Let what is written to a closed standard stream go nowhere, instead of into the next file that is opened."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            if number:
                setattr(sys, name, os.fdopen(nowhere, "w", closefd=False))


def _run(arguments: Sequence[str]) -> int:
    """Run the command, and see its output off: what is still in the buffer may meet a full disk."""
    command, *rest = arguments or [""]
    try:
        status = _dispatch(command, rest)
    except SystemExit:  # argparse printed its help
        _flush()
        raise
    _flush()
    return status


def _flush() -> None:
    if sys.stdout is not None:  # None where the shell closed it
        sys.stdout.flush()


def _drop_unwritable_output() -> None:
    """Close standard output if it takes nothing: Python would try again at exit, and complain."""
    try:
        _flush()
    except OSError:
        with contextlib.suppress(OSError):
            sys.stdout.close()


def _dispatch(command: str, arguments: Sequence[str]) -> int:
    if command in ("", "-h", "--help"):
        print(_help())
        return 0 if command else 2
    if command in ("-V", "--version"):
        print(f"edgernn {__version__}")
        return 0
    if command not in COMMANDS:
        raise UsageError(f"there is no such command; the commands are: {', '.join(COMMANDS)}")
    module, _, extra = COMMANDS[command]
    try:
        status: int = importlib.import_module(module).main(arguments, f"edgernn {command}")
    except ModuleNotFoundError as error:  # also from further in: a command imports what is heavy when it needs it
        if not extra or (error.name or "").startswith("edgernn"):
            raise
        raise UsageError(
            f"this command needs the package {error.name}, which is not installed: pip install 'edgernn[{extra}]'"
        ) from error
    return status


def _help() -> str:
    lines = "\n".join(f"  {name:<15} {about}" for name, (_, about, _) in COMMANDS.items())
    return (
        "usage: edgernn COMMAND [OPTIONS]\n\n"
        "Recurrent networks for small machines: train, convert to a streaming artifact, prove, run, measure.\n\n"
        f"commands:\n{lines}\n\n"
        "edgernn COMMAND --help explains one; edgernn --version tells the version."
    )
