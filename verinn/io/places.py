"""Output files: told to be writable before a long run, written whole after it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from verinn.errors import InputError
from verinn.io.files import write_whole


def check_file(path: str | Path) -> None:
    """Raise InputError unless a file can be written at ``path``. Leaves no trace."""
    target = Path(path)
    if target.is_dir():
        raise InputError("is a directory", file=str(path), hint="name a file")
    if _special(target):
        if not os.access(target, os.W_OK):
            raise InputError("can't be written", file=str(path), hint="choose a writable place")
        return
    _try_folder(target.parent, str(path))


def check_folder(path: str | Path) -> None:
    """Raise InputError unless ``path`` is a folder that can be written to, or can be made. Leaves no trace."""
    folder = Path(path)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", file=str(path), hint="name a folder")
    _try_folder(folder, str(path))


def _try_folder(folder: Path, named: str) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"can't be written ({error.strerror})", file=named, hint="choose a writable place") from None


def _special(path: Path) -> bool:
    """A device or a pipe, such as /dev/null: it must be written to, never replaced."""
    return path.exists() and not path.is_file()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all; to a device or a pipe it is simply written."""
    if not _special(Path(path)):
        write_whole(path, text)
        return
    try:
        with open(path, "w") as stream:
            stream.write(text)
    except OSError as error:
        raise InputError(
            f"can't be written ({error.strerror})", file=str(path), hint="choose a writable place"
        ) from None
