"""Reading and writing whole files, with one clear error for each way it can go wrong."""

from __future__ import annotations

import gzip
import io
import os
import tempfile
import zlib
from pathlib import Path

from verinn.errors import InputError

# A gzip bomb must not fill the memory: no competition file comes near this when unpacked.
MAX_UNPACKED = 4 << 30


def read_bytes(path: str | Path) -> bytes:
    """The content of a file, unpacked if it is gzip (told by its first bytes, not by its name).

    Raises InputError for a directory, a missing or unreadable file, or a broken archive.
    """
    name = str(path)
    try:
        data = Path(path).read_bytes()
    except IsADirectoryError:
        raise InputError("is a directory", file=name, hint="name a file") from None
    except FileNotFoundError:
        raise InputError("no such file", file=name, hint="check the path") from None
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise InputError(f"can't be read ({text})", file=name, hint="check its permissions") from None
    if data[:2] == b"\x1f\x8b":
        data = _unpack(data, name)
    return data


def _unpack(data: bytes, name: str) -> bytes:
    pieces = []
    size = 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            while piece := stream.read(16 << 20):
                size += len(piece)
                if size > MAX_UNPACKED:
                    raise InputError(
                        f"unpacks to more than {MAX_UNPACKED >> 30} GiB", file=name, hint="unpack it by hand"
                    )
                pieces.append(piece)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"broken gzip archive ({error})", file=name, hint="fetch or pack the file again") from None
    return b"".join(pieces)


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all (a temporary file beside it, then a rename).

    Raises InputError when the place can't be written.
    """
    target = Path(path)
    try:
        if target.is_dir():
            raise InputError("is a directory", file=str(path), hint="name a file")
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise InputError(
            f"can't be written ({error.strerror})", file=str(path), hint="choose a writable place"
        ) from None
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise InputError(
            f"can't be written ({error.strerror})", file=str(path), hint="choose a writable place"
        ) from None
