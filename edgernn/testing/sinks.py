"""The check that every sink passes: what arrives, opening it again, and what it says when its target is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from edgernn.errors import FailureError, RefusedError, SinkError, UsageError
from edgernn.events import Keyword, Message, Stamp
from edgernn.stream import Sink

__all__ = ["check_sink"]

WORDS = ("left", "naïve", "два слова", 'he said "go"\n\tand \\went', "🎙️ {word} %s $HOME", "long " * 1000)


def check_sink(
    open_sink: Callable[[], Sink],
    received: Callable[[], Sequence[Message]] | None = None,
    break_: Callable[[], object] | None = None,
    mend: Callable[[], object] | None = None,
    within_s: float = 10.0,
) -> None:
    """Check a sink; raise `AssertionError` where it breaks its protocol (`edgernn.stream.Sink`).

    It takes any text, arrives in order, takes a message twice, is opened again, and may be closed twice. With
    `received`, which tells what has arrived so far: all of that did by the time `write` returned. With `break_` and
    `mend`, which take its target away and bring it back: it says so (`SinkError`) instead of losing anything, within
    `within_s`, and delivers again when it is opened after that.

    >>> from edgernn.testing import ListSink
    >>> sink = ListSink()
    >>> check_sink(lambda: sink, lambda: sink.messages)
    """
    check = _Check(open_sink, received, within_s)
    check.opened_and_closed()
    check.opened_again()
    if break_ and mend:
        for _ in range(2):
            check.fault(break_, mend)


class _Check:
    def __init__(
        self, open_sink: Callable[[], Sink], received: Callable[[], Sequence[Message]] | None, within_s: float
    ) -> None:
        self.open_sink, self.received, self.within_s = open_sink, received, within_s
        self.stamp = Stamp()
        self.sent: list[Message] = []

    def opened_and_closed(self) -> None:
        sink = self.open_sink()
        for word in WORDS:
            self.send(sink, self.message(word))
        self.send(sink, self.sent[0])  # a repeat: it is the receiver's to drop
        sink.close()
        sink.close()

    def opened_again(self) -> None:
        for _ in range(3):
            sink = self.open_sink()
            self.send(sink, self.message("again"))
            sink.close()
        self.open_sink().close()  # and nothing written

    def fault(self, break_: Callable[[], object], mend: Callable[[], object]) -> None:
        sink, message = self.open_sink(), self.message("during")
        self.send(sink, self.message("before"))
        break_()
        begin = time.monotonic()
        failed = self.fails(lambda: sink.write(message)) or self.fails(lambda: sink.write(message))
        assert failed, "its target is gone, and it says twice that a message was delivered"
        sink.close()
        sink.close()
        assert self.fails(lambda: self.open_and_write(message)), "its target is gone, and a new one delivers there"
        took_s = time.monotonic() - begin
        assert took_s < self.within_s, f"it took {took_s:.1f} s to say that its target is gone"
        mend()
        sink = self.open_sink()
        self.send(sink, message)
        self.send(sink, self.message("after"))
        sink.close()

    def message(self, word: str) -> Message:
        return self.stamp("hall", Keyword(word, 0.9, 0.5, 1.0))

    def send(self, sink: Sink, message: Message) -> None:
        sink.write(message)
        self.sent.append(message)
        if self.received:
            arrived = list(dict.fromkeys(one for one in self.received() if one in self.sent))  # repeats dropped
            assert message in arrived, f"{message.event.label[:20]!r} has not arrived when write returns"
            order = list(dict.fromkeys(self.sent))
            assert arrived == order, "messages arrive in another order, or some not at all"

    def open_and_write(self, message: Message) -> None:
        sink = self.open_sink()
        try:
            sink.write(message)
        finally:
            sink.close()

    def fails(self, action: Callable[[], object]) -> bool:
        try:
            action()
        except RefusedError as error:
            raise AssertionError(f"its target is gone, and it refuses for ever: {error}") from error
        except (SinkError, UsageError) as error:
            return bool(str(error).strip())
        except FailureError as error:
            raise AssertionError(f"its target is gone: expected SinkError, found {type(error).__name__}") from error
        return False
