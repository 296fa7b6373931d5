"""Each event as a POST of JSON: `https://host/path`, with a table for a token or a signature.

The header Idempotency-Key has the event's id. With a `secret`, X-Signature is "sha256=" and the HMAC of the body, in
hex. An answer of 2xx takes the event; 4xx refuses it, but for 408, 425 and 429; all else is tried again, with 429 and
503 not before the time that Retry-After says.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from edgernn import __version__
from edgernn.devices.secret import Secret
from edgernn.devices.tls import client_tls
from edgernn.errors import RefusedError, SinkError, UsageError
from edgernn.events import Message

__all__ = ["WebhookOptions", "WebhookSink"]

MOST_ANSWER = 65536
AGAIN = (408, 425, 429)
LATER = (429, 503)


@dataclass(frozen=True)
class WebhookOptions:
    """Options of the sink, which stand in its table only: what is behind the ? of the URI is the server's."""

    token: Secret | None = None
    """Sent as `Authorization: Bearer …`."""
    secret: Secret | None = None
    """Key of the signature."""
    timeout: float = 5.0
    """Seconds to wait for the server, each time."""
    ca: str | None = None
    """File with the certificates to trust instead of the system's."""


class WebhookSink:
    """One connection, kept open between events."""

    def __init__(self, url: str, options: WebhookOptions | None = None) -> None:
        self._options = options or WebhookOptions()
        parts = urlsplit(url)
        self._shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._connection = _connection(url, self._options)
        self._used = self._closed = False

    def write(self, message: Message) -> None:
        """Send one event, and wait for the answer."""
        if self._closed:
            raise SinkError(f"the sink {self._shown} is closed")
        body = message.to_json().encode()
        status, reason, wait_s = self._post(body, self._headers(message, body))
        if 400 <= status < 500 and status not in AGAIN:
            raise RefusedError(f"{self._shown} refuses the event: {status} {reason}")
        if not 200 <= status < 300:
            later = SinkError(f"{self._shown} does not take events: {status} {reason}")
            later.wait_s = wait_s if status in LATER else 0.0
            raise later

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._connection.close()

    def _headers(self, message: Message, body: bytes) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"edgernn/{__version__}",
            "Idempotency-Key": message.id,
        }
        if self._options.token:
            token = self._options.token.reveal()
            if not (token.isascii() and token.isprintable()):  # http.client would tell it to the log
                raise SinkError(f"the token for {self._shown} has signs that no header can have, such as a line break")
            headers["Authorization"] = f"Bearer {token}"
        if self._options.secret:
            key = self._options.secret.reveal().encode()
            headers["X-Signature"] = f"sha256={hmac.new(key, body, hashlib.sha256).hexdigest()}"
        return headers

    def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, str, float]:
        """Return status, reason, and in how many seconds to come back.

        A connection that the server closed meanwhile is opened once more.
        """
        try:
            try:
                return self._exchange(body, headers)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                if not self._used:
                    raise
                self._connection.close()
                self._used = False
                return self._exchange(body, headers)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise SinkError(f"{self._shown} cannot be reached: {_reason(error)}") from error

    def _exchange(self, body: bytes, headers: dict[str, str]) -> tuple[int, str, float]:
        self._connection.request("POST", self._target, body, headers)
        answer = self._connection.getresponse()
        self._used = _read_rest(answer, self._options.timeout)
        if not self._used:
            self._connection.close()
        return answer.status, answer.reason, _seconds_of(answer.getheader("Retry-After", ""))


def _connection(url: str, options: WebhookOptions) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"the URL {url} has no port that could be: {error}") from error
    if not host or "@" in parts.netloc:
        raise UsageError("a webhook is a URL such as https://host/path; a password or a token goes into its table")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(f"the URL {url} has signs that must be written as %XX")
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=options.timeout)
    return http.client.HTTPSConnection(host, port, timeout=options.timeout, context=client_tls(options.ca))


def _read_rest(answer: http.client.HTTPResponse, timeout_s: float) -> bool:
    """Read what the connection must be rid of for the next event; return whether that was soon over."""
    until_s, count = time.monotonic() + timeout_s, 0
    with contextlib.suppress(OSError, http.client.HTTPException):  # the status has come, and counts
        while answer.length != 0 and count < MOST_ANSWER and time.monotonic() < until_s:
            if not (piece := answer.read1(MOST_ANSWER)):
                break
            count += len(piece)
        if answer.length == 0:
            answer.read()  # nothing, which is how it notices
    return answer.isclosed()


def _seconds_of(text: str) -> float:
    """Read Retry-After, seconds or a date.

    >>> _seconds_of("120"), _seconds_of("Fri, 31 Dec 1999 23:59:59 GMT"), _seconds_of("soon")
    (120.0, 0.0, 0.0)
    """
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
