"""TLS as a client: whom to trust, and who we are."""

from __future__ import annotations

import ssl

from edgernn.errors import UsageError

__all__ = ["client_tls"]


def client_tls(ca: str | None = None, cert: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """Return a context that checks the server's name against the certificates of `ca`, or the system's without one.

    `cert` and `key` are files with a certificate of our own, for servers that ask for one. Raises `UsageError` for a
    file that is not there or not what it should be.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"the file {ca} of certificates to trust cannot be used: {_reason(error)}") from error
    if cert:
        try:
            context.load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"the certificate {cert} with its key cannot be used: {_reason(error)}") from error
    return context


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
