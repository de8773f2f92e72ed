"""VNN-LIB 1.0 and 2.0: from the bytes of a property file to a Query.

Source: the VNN-LIB standard (vnnlib.org), and what benchmark files of the competitions contain.
The version is told by the content: a 2.0 file begins with `(vnnlib-version <2.0>)`.
"""

from __future__ import annotations

from pathlib import Path

from verinn.io.files import read_bytes
from verinn.io.vnnlib.reader import parse_query
from verinn.ir.query import Query

__all__ = ["parse_query", "read_query"]


def read_query(path: str | Path) -> Query:
    """Reads a property file (plain or gzip).

    Raises InputError with file, line and advice for anything that is not a legal query; what is
    merely unusual is read with a warning in ``Query.warnings``.
    """
    return parse_query(read_bytes(path), str(path))
