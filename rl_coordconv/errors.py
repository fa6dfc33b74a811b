"""User errors: one exception type, one clear line, exit code 2."""

from __future__ import annotations

import contextlib
import difflib
import errno
import sys
from collections.abc import Iterable, Iterator

STORAGE = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "your disk quota is used up: free some space",
    errno.EROFS: "the file system has become read-only",
    errno.EACCES: "permission is missing",
    errno.EFBIG: "the file would be larger than this account may write",
    errno.EIO: "the disk reports an error",
    errno.ENAMETOOLONG: "the name is too long",
}
"""What keeps files from being read or written, and what to do, by its number."""


class UserError(ValueError):
    """Something the user can put right: the message says what is wrong, where, and what is allowed."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def last_line(error: BaseException) -> str:
    """Return the last line of what an error says, its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def nearest(name: object, allowed: Iterable[str]) -> str:
    """
    Return `` (did you mean 'x'?)`` for the allowed name closest to ``name``, or an empty string.

    :param name: What the user typed
    :param allowed: Names that would have been accepted
    :return: Text to append to an error message
    """
    by_lower = {choice.lower(): choice for choice in allowed}
    match = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
    return f" (did you mean '{by_lower[match[0]]}'?)" if match else ""


def choose(what: str, name: str, allowed: Iterable[str]) -> str:
    """
    Return ``name`` if it is allowed, else raise an error that lists the choices and the nearest one.

    :param what: What is being chosen, for the message, e.g. ``backend``
    :param name: What the user typed
    :param allowed: Names that are accepted
    :raises UserError: ``name`` is not among ``allowed``
    """
    allowed = list(allowed)
    if name not in allowed:
        raise UserError(f"unknown {what} '{name}': use one of {', '.join(allowed)}{nearest(name, allowed)}")
    return name


@contextlib.contextmanager
def needs(extra: str = "") -> Iterator[None]:
    """
    Around imports of packages that not everyone has: name a missing one with the command that installs it.

    :param extra: The extra of ``pyproject.toml`` that brings them; empty: the package's own dependencies
    :raises UserError: One is not installed
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).partition(".")[0]
        if package == "rl_coordconv":
            raise
        wanted = f"'rl-coordconv[{extra}]'" if extra else "rl-coordconv"
        raise UserError(f"{package} is not installed: pip install {wanted}") from None


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """
    Print a :class:`UserError`, or what the file system refuses, as one line and exit with code 2; with 130
    after Ctrl-C.

    Around a block, or as a decorator of a script's ``main``: ``@one_line_errors()``.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        print(f"error: {STORAGE[error.errno]}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None


@contextlib.contextmanager
def script_needs(extra: str) -> Iterator[None]:
    """Around the imports of a script: as :func:`needs`, in one line with exit code 2."""
    with one_line_errors(), needs(extra):
        yield
