"""How much memory a file from elsewhere may take: an allocation beyond it fails, before the machine is in want."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["MOST_GB", "limited_memory"]


def _most_gb() -> float:
    """Return 8 GB, or three quarters of the machine's memory where that is less."""
    try:
        return min(8.0, 0.75 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 10**9)
    except (AttributeError, OSError, ValueError):
        return 8.0


MOST_GB = _most_gb()


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Let this process take up to `MOST_GB` more than it has now, for as long as the context is open.

    Native code sees its allocations fail and says so; Python raises `MemoryError`. Without an effect where the system
    has no limit for address space.
    """
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * os.sysconf("SC_PAGE_SIZE") + int(MOST_GB * 10**9)
    known = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([wanted, *known]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
