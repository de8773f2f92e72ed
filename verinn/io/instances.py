"""Lists of instances: the competition's instances.csv, suites with a header line, truth files."""

from __future__ import annotations

import ast
import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from verinn.errors import InputError

HEADER = ("onnx", "vnnlib")


@dataclass(frozen=True)
class Instance:
    """One row: the names as listed, the folder they are relative to, the limit in seconds.

    ``onnx`` is a path or, for several networks, the text of a Python list of (name, path) pairs.
    ``set`` groups rows in reports. ``expected`` is "sat", "unsat" or empty.
    """

    onnx: str
    vnnlib: str
    timeout: float
    folder: Path
    set: str
    expected: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.onnx, self.vnnlib

    @property
    def model_argument(self) -> str:
        """``onnx`` with the folder put before each path."""
        models = parse_models(self.onnx)
        if isinstance(models, str):
            return str(self.folder / models)
        return repr([(name, str(self.folder / path)) for name, path in models.items()])

    @property
    def property_path(self) -> Path:
        return self.folder / self.vnnlib


def parse_models(text: str) -> str | dict[str, str]:
    """A path as it is; the text of a Python list ``[('f', 'a.onnx'), …]`` as name → path."""
    stripped = text.strip()
    if not (stripped.startswith("[") and stripped.endswith("]")):
        return text
    try:
        pairs = ast.literal_eval(stripped)
        models = {str(name): str(path) for name, path in pairs}
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise InputError(
            f"`{stripped[:60]}` is not a list of networks", hint="write [('name', 'path.onnx'), ...]"
        ) from None
    if not models or len(models) != len(pairs):
        raise InputError(f"`{stripped[:60]}` names no network, or one twice", hint="name each network once")
    return models


def read_instances(path: str | Path, timeout: float = 60.0) -> list[Instance]:
    """The rows of a folder's instances.csv, of such a file, or of a suite with a header line.

    Paths are relative to the file's folder. ``timeout`` stands in where a row names none.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "instances.csv"
    rows = _rows(file)
    if not rows:
        raise InputError("lists no instance", file=str(file), hint="add rows onnx,vnnlib,timeout")
    if set(HEADER) <= set(rows[0]):
        records = [dict(zip(rows[0], row, strict=False)) for row in rows[1:]]
    else:
        records = [dict(zip(("onnx", "vnnlib", "timeout"), row, strict=False)) for row in rows]
    return [_instance(record, file, timeout, line) for line, record in enumerate(records, start=1)]


def _instance(record: Mapping[str, str], file: Path, timeout: float, line: int) -> Instance:
    onnx, vnnlib = record.get("onnx", ""), record.get("vnnlib", "")
    if not onnx or not vnnlib:
        raise InputError("needs onnx,vnnlib,timeout", file=str(file), place=f"row {line}", hint="complete the row")
    return Instance(
        onnx=onnx,
        vnnlib=vnnlib,
        timeout=_seconds(record.get("timeout", ""), timeout, file, line),
        folder=file.parent,
        set=record.get("set") or _set_of(onnx, file),
        expected=_expected(record.get("expected", "")),
    )


def _set_of(onnx: str, file: Path) -> str:
    """The first folder of the path, unless it is the usual `onnx/`: then the folder of the list."""
    parts = Path(onnx).parts
    if len(parts) > 1 and not onnx.startswith("[") and parts[0] not in ("onnx", ".", "..", "/"):
        return parts[0]
    return file.resolve().parent.name


def _seconds(text: str, default: float, file: Path, line: int) -> float:
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"`{text}` is not a time limit", file=str(file), place=f"row {line}", hint="write seconds")
    return value


def _expected(text: str) -> str:
    word = text.strip().lower()
    return word if word in ("sat", "unsat") else ""


def read_truth(path: str | Path) -> dict[tuple[str, str], str]:
    """(onnx, vnnlib) → "sat" or "unsat", from a csv with the columns onnx, vnnlib, expected."""
    rows = _rows(Path(path))
    if not rows or not {"onnx", "vnnlib", "expected"} <= set(rows[0]):
        raise InputError("needs a header line", file=str(path), hint="name the columns onnx,vnnlib,expected")
    records = [dict(zip(rows[0], row, strict=False)) for row in rows[1:]]
    keys = [(record["onnx"], record.get("vnnlib", "")) for record in records]
    truth = {key: _expected(record.get("expected", "")) for key, record in zip(keys, records, strict=True)}
    return {key: expected for key, expected in truth.items() if expected}


def _rows(file: Path) -> list[list[str]]:
    """The non-empty rows of a csv file, cells stripped."""
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            return [[cell.strip() for cell in row] for row in csv.reader(stream) if any(cell.strip() for cell in row)]
    except FileNotFoundError:
        raise InputError("no such file", file=str(file), hint="name a folder with instances.csv, or a csv") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"can't be read ({error})", file=str(file), hint="check the file") from None
