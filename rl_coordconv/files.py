"""Files that are there complete or not at all, and folders that one process writes to at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rl_coordconv.errors import UserError


@contextlib.contextmanager
def atomic_path(path: Path, sync: bool = True) -> Iterator[Path]:
    """
    Give a temporary path beside ``path`` that takes its place when the block succeeds.

    :param path: The file to write; on an error it stays as it was
    :param sync: Whether it must outlast a power cut
    """
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield temporary
        if sync:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, sync: bool = True) -> None:
    """Write ``text`` to ``path`` so that the file is there complete or not at all."""
    with atomic_path(path, sync) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, sync: bool = True) -> None:
    """Write ``value`` to ``path`` as JSON for people to read, complete or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n", sync)


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file says; nothing if it is missing, damaged or no mapping."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def make_folder(folder: Path, what: str) -> None:
    """
    Make a folder and those above it, if they are not there.

    :param folder: The folder
    :param what: What it is, for the message
    :raises UserError: It cannot be made
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{what} '{folder}' cannot be made: {error}") from None


@contextlib.contextmanager
def atomic_folder(folder: Path, what: str, replace: bool = False) -> Iterator[Path]:
    """
    Give an empty folder beside ``folder`` that takes its place when the block succeeds.

    :param folder: The folder to make, with those above it
    :param what: What it is, for the message
    :param replace: Whether it may be there already
    :raises UserError: It cannot be made or filled
    """
    draft = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        yield draft
        if replace:
            shutil.rmtree(folder, ignore_errors=True)
        os.replace(draft, folder)
    except OSError as error:
        raise UserError(f"{what} '{folder}' cannot be made: {error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_place_of(path: Path, what: str) -> None:
    """
    Refuse a file that cannot be written, before the work for it is done.

    :param path: Where it is to be
    :param what: What it is, for the message
    :raises UserError: Its folder does not exist or takes no new file, or it is a folder itself
    """
    if path.is_dir():
        raise UserError(f"{what} '{path}' is a folder")
    if not path.absolute().parent.is_dir():
        raise UserError(f"folder '{path.parent}' of {what} '{path}' does not exist")
    try:
        _write_something(path.parent)
    except OSError as error:
        detail = error.strerror or error
        raise UserError(f"folder '{path.parent}' of {what} '{path}' cannot be written: {detail}") from None


def check_can_hold_files(folder: Path, what: str) -> None:
    """
    Refuse a folder that cannot be made or written to, before the work for it is done; nothing is made.

    :param folder: Where it is to be, with the folders above it
    :param what: What it is, for the message
    :raises UserError: What is there already does not let it
    """
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        _write_something(place)
    except OSError:
        reason = f"'{place}' is not a folder that can be written to"
        raise UserError(f"{what} '{folder}' cannot be made: {reason}") from None


def _write_something(folder: Path) -> None:
    """Write a file that leaves nothing: permissions do not tell all that keeps files out."""
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """
    Hold a folder against another process that writes there too; a lock on the folder itself leaves no file.

    :param folder: It exists
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # file systems without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
