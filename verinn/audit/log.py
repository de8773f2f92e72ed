"""A csv of frozen records that are appended as they come: what was done survives being cut off."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from verinn.errors import InputError

Record = TypeVar("Record")
_READ = {"float": float, "int": int, "str": str}


class Log(Generic[Record]):
    """The results file: the rows that it holds, and a way to append more.

    ``kind``: a dataclass whose fields are of type str, int or float; they name the columns. Without a path
    rows are only kept in memory. ``what`` names the kind of file in the error for one that is something else.
    """

    def __init__(self, path: str | Path | None, kind: type[Record], what: str):
        self._path = None if path is None else Path(path)
        self._kind = kind
        self.columns = tuple(field.name for field in fields(kind))  # type: ignore[arg-type]
        self.rows: list[Record] = []
        if self._path is None:
            return
        try:
            text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
            whole = text[: text.rfind("\n") + 1] or ",".join(self.columns) + "\n"  # a torn last line is dropped
            self.rows = self._parse(whole, what)
            if whole != text:
                self._path.write_text(whole, encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"can't be used ({error})", file=str(path), hint="choose a writable place") from None

    def append(self, row: Record) -> None:
        """Keep a row, on disk before this returns."""
        self.rows.append(row)
        if self._path is None:
            return
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(astuple(row))  # type: ignore[call-overload]
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(line.getvalue())
            stream.flush()
            os.fsync(stream.fileno())

    def _parse(self, text: str, what: str) -> list[Record]:
        lines = list(csv.reader(io.StringIO(text)))
        if tuple(lines[0]) != self.columns:
            raise InputError(f"is not a results file of {what}", file=str(self._path), hint="name another --out")
        types: list[Any] = [_READ[str(field.type)] for field in fields(self._kind)]  # type: ignore[arg-type]
        try:
            return [self._kind(*(read(cell) for read, cell in zip(types, line, strict=True))) for line in lines[1:]]
        except ValueError as error:
            raise InputError(
                f"holds a row that can't be read ({error})", file=str(self._path), hint="name another --out"
            ) from None
