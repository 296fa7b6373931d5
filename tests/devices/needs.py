"""Skips what needs something that this machine lacks; in CI, which installs all programs, it fails without one."""

from __future__ import annotations

import os

import pytest

__all__ = ["SINCE", "needs", "needs_root", "skip_without"]

SINCE = "2026-11-23"  # when these conditions were last looked through


def needs(missing: object, what: str) -> pytest.MarkDecorator:
    """Return a mark for a test that needs `what`."""
    return pytest.mark.skipif(bool(missing) and "CI" not in os.environ, reason=f"{SINCE}: not here: {what}")


def skip_without(missing: object, what: str) -> None:
    """Skip the test that runs."""
    if missing and "CI" not in os.environ:
        pytest.skip(f"{SINCE}: not here: {what}")


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason=f"{SINCE}: only root mounts a small disk")
