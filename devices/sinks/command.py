"""A program for each event, without a shell: `command:notify-send {word} {score}`.

`{word}`, `{score}`, `{id}`, `{pipeline}`, `{time}` and `{json}` stand for what the event says; all of it is one line of
JSON on the program's standard input. What it prints goes to our standard error. An exit status of 0 is taken for
delivered, 65 (EX_DATAERR) for refused, and any other, or no end within `timeout`, for a failure: it is tried again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import shutil
import signal
import subprocess
from dataclasses import dataclass

from edgernn.errors import RefusedError, SinkError, UsageError
from edgernn.events import Message

__all__ = ["CommandOptions", "CommandSink", "split_command"]

REFUSED = os.EX_DATAERR
STDERR = 2


@dataclass(frozen=True)
class CommandOptions:
    """Options of the sink, which stand in its table only."""

    timeout: float = 10.0
    """Seconds after which the program, and all that it started, is killed."""


def split_command(text: str) -> list[str]:
    """Return the words of a command line, quoted as for a shell; raise `UsageError` if there are none."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"the command for events cannot be read: {error} in {text!r}") from error
    if not words:
        raise UsageError("the sink command: needs a program, as in 'command:notify-send {word}'")
    for name in re.findall(r"\{(\w+)\}", text):
        if name not in _values(None):
            raise UsageError(f"a command for events knows no {{{name}}}; it knows: {', '.join(_values(None))}")
    return words


class CommandSink:
    """One process at a time."""

    def __init__(self, words: list[str], options: CommandOptions | None = None) -> None:
        self._words, self._timeout_s = words, (options or CommandOptions()).timeout
        self._closed = False
        if shutil.which(words[0]) is None:
            raise UsageError(f"the program {words[0]} for events is not there, or not executable")

    def write(self, message: Message) -> None:
        """Run the program to its end."""
        if self._closed:
            raise SinkError("the command for events is closed")
        values = _values(message)
        words = [re.sub(r"\{(\w+)\}", lambda found: values[found[1]], word) for word in self._words]
        status = self._run(words, message.to_json() + "\n")
        if status == REFUSED:
            raise RefusedError(f"the program {words[0]} refused the event (exit status {status})")
        if status:
            raise SinkError(f"the program {words[0]} failed: {_described(status)}")

    def close(self) -> None:
        """Refuse further events."""
        self._closed = True

    def _run(self, words: list[str], line: str) -> int:
        try:
            process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=STDERR, text=True, start_new_session=True)
        except (ValueError, UnicodeError) as error:  # a null byte, or half a character
            raise RefusedError(f"the event cannot be a word of a command: {error}") from error
        except OSError as error:
            if error.errno == errno.E2BIG:
                raise RefusedError(f"the event is too long to be a word of a command: {error.strerror}") from error
            raise SinkError(f"the program {words[0]} cannot be started: {error.strerror}") from error
        try:
            process.communicate(line, self._timeout_s)
        except subprocess.TimeoutExpired as error:
            raise SinkError(f"the program {words[0]} took longer than {self._timeout_s:g} s, and was killed") from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            assert process.stdin
            process.stdin.close()
        return process.returncode


def _values(message: Message | None) -> dict[str, str]:
    """Return what each name in braces stands for."""
    if message is None:
        return dict.fromkeys(("word", "score", "id", "pipeline", "time", "json"), "")
    event = message.event
    own = {"word": event.label, "score": f"{event.score:.2f}", "json": message.to_json()}
    return {**own, "id": message.id, "pipeline": message.pipeline, "time": message.time}


def _described(status: int) -> str:
    return f"exit status {status}" if status > 0 else f"killed by {signal.Signals(-status).name}"
