"""A search kept in a file, so that it can go on where it stopped: written whole, and only for the same question."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from verinn.errors import InputError
from verinn.io.files import read_bytes
from verinn.io.places import write_text
from verinn.region.grid import Grid
from verinn.region.search import Boxes, Counts

VERSION = 1


def fingerprint(model: str | Path | onnx.ModelProto, grids: list[Grid], *texts: str) -> str:
    """Tells one question from another: the model's bytes, the grids, and what else matters."""
    digest = hashlib.sha256()
    data = model.SerializeToString(deterministic=True) if isinstance(model, onnx.ModelProto) else read_bytes(model)
    digest.update(data)
    for grid in grids:
        for part in (grid.low, grid.high, grid.point, grid.floor):
            digest.update(part.tobytes())
    for text in texts:
        digest.update(b"\0" + text.encode())
    return digest.hexdigest()


def save(path: str | Path, mark: str, parts: Mapping[str, tuple[Counts, Boxes]]) -> None:
    """All parts of a search by name. InputError where the file can't be written."""
    record = {
        "verinn region": VERSION,
        "question": mark,
        "parts": {
            name: {"counts": {key: str(value) for key, value in asdict(counts).items()}, **_packed(boxes)}
            for name, (counts, boxes) in parts.items()
        },
    }
    write_text(path, json.dumps(record) + "\n")


def load(path: str | Path, mark: str) -> dict[str, tuple[Counts, Boxes]]:
    """The parts kept in a file. InputError where it isn't one, or is of another question."""
    name = str(path)
    try:
        record = json.loads(read_bytes(path))
        _own(record, "verinn region", mark, name)
        return {
            str(key): (Counts(**{k: int(v) for k, v in part["counts"].items()}), _unpacked(part))
            for key, part in record["parts"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise InputError(f"is broken ({error})", file=name, hint="delete it to start anew") from None


@dataclass(frozen=True, eq=False)
class Bounds:
    """How far a distance is known: every change below ``lower`` is proved harmless, as ``certificate`` tells, or with
    ``whole`` the whole region. ``point``: float32 (n,), a violation, which is replayed before it counts again."""

    lower: Fraction
    whole: bool
    certificate: list[dict[str, Any]]
    point: np.ndarray | None


def save_bounds(path: str | Path, mark: str, bounds: Bounds) -> None:
    """InputError where the file can't be written."""
    record = {
        "verinn distance": VERSION,
        "question": mark,
        "lower": str(bounds.lower),
        "whole": bounds.whole,
        "certificate": bounds.certificate,
        "point": None if bounds.point is None else bounds.point.astype(np.float64).tolist(),
    }
    write_text(path, json.dumps(record) + "\n")


def load_bounds(path: str | Path, mark: str) -> Bounds:
    """InputError where the file isn't one that ``save_bounds`` wrote, or is of another question."""
    name = str(path)
    try:
        record = json.loads(read_bytes(path))
        _own(record, "verinn distance", mark, name)
        point = None if record["point"] is None else np.array(record["point"], np.float32)
        if not isinstance(record["certificate"], list) or not isinstance(record["whole"], bool):
            raise ValueError("no certificate")
        return Bounds(Fraction(record["lower"]), record["whole"], record["certificate"], point)
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise InputError(f"is broken ({error})", file=name, hint="delete it to start anew") from None


def _own(record: Any, kind: str, mark: str, name: str) -> None:
    """InputError unless a parsed file is of that kind, and of this question."""
    if not isinstance(record, dict) or record.get(kind) != VERSION:
        raise InputError("is no state of such a search", file=name, hint="name a file that --state wrote")
    if record["question"] != mark:
        raise InputError(
            "is the state of another question", file=name,
            hint="give the same model, region and options, or another file",
        )  # fmt: skip


def _packed(boxes: Boxes) -> dict[str, Any]:
    def text(array: np.ndarray) -> str:
        return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 1)).decode()

    return {
        "shape": list(boxes.low.shape),
        "low": text(boxes.low.astype("<i8")),
        "high": text(boxes.high.astype("<i8")),
        "worst": text(boxes.worst.astype("<f8")),
    }


def _unpacked(part: Mapping[str, Any]) -> Boxes:
    def array(text: str, dtype: str, *shape: int) -> np.ndarray:
        return np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), dtype).reshape(shape).copy()

    rows, columns = (int(value) for value in part["shape"])
    return Boxes(
        array(part["low"], "<i8", rows, columns).astype(np.int64),
        array(part["high"], "<i8", rows, columns).astype(np.int64),
        array(part["worst"], "<f8", rows),
    )
