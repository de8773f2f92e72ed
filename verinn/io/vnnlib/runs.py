"""The fast path: runs of `scalar <= number` and `scalar >= number`, from bytes to arrays.

A run is a stretch of text that one regular expression has matched from end to end, so nothing in it
is skipped. Its arrays are reserved at once and filled in bulk at the end of reading.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from verinn.io.vnnlib.numbers import BadNumber, exact
from verinn.io.vnnlib.symbols import INTEGERS, OTHERS, Symbols
from verinn.io.vnnlib.text import Source
from verinn.ir.query import Bounds

# At most 8 + 1 + 20 digits and a sign, then a short exponent. What is longer goes the slow way.
_NUMBER = rb"-?\d{1,8}(?:\.\d{1,20})?(?:[eE][-+]?\d{1,2})?"
_WIDTHS = (16, 20, 24, 28, 34)  # of decimals kept as text; up to 16 characters no text is needed
_STRICT_NUMBER = rb"-?\d{1,8}\.\d{1,20}"
_LENGTH = 20_000  # of one run: bounds the memory of the conversion
_CHUNK = 4 << 20
_HEAD = re.compile(rb"\s*+\(\s*+(?:assert\s*+\(\s*+)?[<>]=\s++([A-Za-z]\w*+)")
_EXPONENT = re.compile(rb"\d[eE]")
_INTEGER = re.compile(rb"\s-?\d++\s*+\)")
_TABLE = bytes.maketrans(b"()[],_=\n\t\r<>XY", b"          1001")
_TABLE_2 = bytes.maketrans(b"()[],=\n\t\r<>", b"         10")


@dataclass(frozen=True)
class _Shape:
    """How bounds on one variable (2.0) or on X and Y (1.0) look, and what their columns mean."""

    name: bytes
    shape: tuple[int, ...]
    start: int
    assertions: re.Pattern[bytes]
    bounds: re.Pattern[bytes]


@dataclass
class Runs:
    """Finds runs and turns them into Bounds. Call ``fill`` once, when all is read."""

    source: Source
    symbols: Symbols
    shapes: dict[bytes, _Shape | None] = field(default_factory=dict)
    spans: list[tuple[int, int, int, _Shape]] = field(default_factory=list)  # start, end, offset, shape
    size: int = 0

    def __post_init__(self) -> None:
        data = self.source.data
        room = data.count(b"<=") + data.count(b">=")
        self.index = np.empty(room, np.int64)
        self.upper = np.empty(room, bool)
        self.value = np.empty(room, np.float64)
        width = next((w for w in _WIDTHS if not re.search(rb"[\d.eE+-]{%d}" % (w + 1), data)), _WIDTHS[-1])
        needed = width > _WIDTHS[0] or _EXPONENT.search(data) is not None
        self.text = np.empty(room, f"S{width}") if needed else None

    def assertions(self, position: int) -> tuple[int, int, int] | None:
        """The run of `(assert (<= X 0.5))` at ``position``: offset, end of the offsets, end of the text."""
        return self._match(position, True)

    def bounds(self, position: int) -> tuple[Bounds, int] | None:
        """The run of `(<= X 0.5)` at ``position`` and where it ends."""
        found = self._match(position, False)
        return None if found is None else (self.view(found[0], found[1]), found[2])

    def view(self, start: int, end: int) -> Bounds:
        """The Bounds between two offsets."""
        text = None if self.text is None else self.text[start:end]
        return Bounds(self.index[start:end], self.upper[start:end], self.value[start:end], text)

    def _match(self, position: int, assertions: bool) -> tuple[int, int, int] | None:
        data = self.source.data
        head = _HEAD.match(data, position)
        if head is None:
            return None
        name = head[1][:1] if self.symbols.version == "1.0" else head[1]
        try:
            shape = self.shapes[name]
        except KeyError:
            shape = self.shapes[name] = self._shape(name)
        if shape is None:
            return None
        match = (shape.assertions if assertions else shape.bounds).match(data, position)
        if match is None:
            return None
        end = match.end()
        start = self.size
        self.size += data.count(b"=", position, end)
        self.spans.append((position, end, start, shape))
        return start, self.size, end

    def _shape(self, name: bytes) -> _Shape | None:
        extents: tuple[int, ...] = ()
        start = 0
        if self.symbols.version == "1.0":
            if name not in (b"X", b"Y"):
                return None
            element, number = rb"[XY]_(?:0|[1-9]\d{0,8})", _NUMBER
            name = b""
        else:
            variable = self.symbols.by_name.get(name)
            if variable is None or not variable.shape or variable.dtype in INTEGERS + OTHERS:
                return None
            element = name + rb"\[" + rb",".join([rb"\d{1,9}"] * len(variable.shape)) + rb"\]"
            number, extents, start = _NUMBER, variable.shape, variable.start
        bound = rb"\(\s*+[<>]=\s++" + element + rb"\s++" + number + rb"\s*+\)"
        return _Shape(
            name,
            extents,
            start,
            re.compile(rb"(?>\s*+\(\s*+assert\s*+" + bound + rb"\s*+\)){1,%d}+" % _LENGTH),
            re.compile(rb"(?>\s*+" + bound + rb"){1,%d}+" % _LENGTH),
        )

    def fill(self) -> None:
        """Converts all runs found. Raises InputError for an index out of range or a number too large."""
        batch: list[tuple[int, int, int, _Shape]] = []
        length = 0
        for span in sorted(self.spans, key=lambda s: (s[3].name, s[2])):
            if batch and (span[3] is not batch[0][3] or length > _CHUNK):
                self._convert(batch)
                batch, length = [], 0
            batch.append(span)
            length += span[1] - span[0]
        if batch:
            self._convert(batch)

    def _convert(self, batch: list[tuple[int, int, int, _Shape]]) -> None:
        data = self.source.data
        shape = batch[0][3]
        if self.symbols.version != "1.0":
            self._warn(batch)
        text = b" ".join([data[start:end] for start, end, _, _ in batch]).replace(b"assert", b"")
        if shape.name:
            text = text.replace(shape.name + b"[", b" ").translate(_TABLE_2)
        else:
            text = text.translate(_TABLE)
        columns = 4 if not shape.name else 2 + len(shape.shape)
        numbers = np.fromstring(text, dtype=np.float64, sep=" ").reshape(-1, columns)
        ids, good = self._ids(shape, numbers[:, 1:-1].astype(np.int64))
        good &= np.isfinite(numbers[:, -1])
        words = None
        if self.text is not None:
            words = np.array(text.split()[columns - 1 :: columns], dtype=self.text.dtype)
        taken = 0
        for start, end, offset, _ in batch:
            count = data.count(b"=", start, end)
            here, there = slice(taken, taken + count), slice(offset, offset + count)
            if not good[here].all():
                raise self._bad(start, int(np.argmin(good[here])))
            self.index[there] = ids[here]
            self.upper[there] = numbers[here, 0] == 1
            self.value[there] = numbers[here, -1]
            if words is not None and self.text is not None:
                self.text[there] = words[here]
            taken += count
        if taken != len(numbers):
            raise AssertionError("a run of bounds was not read whole")

    def _ids(self, shape: _Shape, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scalar ids (k,) and which of them are declared, of index columns (k, c)."""
        if not shape.name:
            x, y = self.symbols.by_name[b"X"], self.symbols.by_name[b"Y"]
            is_y = indices[:, 0] == 1
            ids = indices[:, 1] + np.where(is_y, y.start, x.start)
            return ids, indices[:, 1] < np.where(is_y, y.size, x.size)
        ids = np.zeros(len(indices), np.int64)
        good = np.ones(len(indices), bool)
        for column, extent in enumerate(shape.shape):
            good &= indices[:, column] < extent
            ids = ids * extent + indices[:, column]
        return ids + shape.start, good

    def _bad(self, start: int, which: int) -> Exception:
        """The error for the given bound of the run at ``start``."""
        data = self.source.data
        position = start
        for _ in range(which + 1):
            position = data.index(b"=", position) + 1
        word, place, position = self.source.token(position)
        index: list[bytes] | None = None
        if data[position : position + 1] == b"[":
            close = data.index(b"]", position)
            index, position = data[position + 1 : close].split(b","), close + 1
        self.symbols.element(self.source, place, word, index)
        word, place, _ = self.source.token(position)
        try:
            exact(word)
        except BadNumber as error:
            return self.source.fail(place, f"constant {error}", "write a decimal that float64 can hold")
        return AssertionError(f"bound {word!r} could not be read")

    def _warn(self, batch: list[tuple[int, int, int, _Shape]]) -> None:
        for pattern, message in ((_EXPONENT, EXPONENT), (_INTEGER, INTEGER)):
            if message not in self.source.warnings:
                for start, end, _, _ in batch:
                    match = pattern.search(self.source.data, start, end)
                    if match:
                        self.source.warn(match.start(), message)
                        break


EXPONENT = "exponents are not VNN-LIB 2.0; read as meant"
INTEGER = "an integer constant beside a real variable is not VNN-LIB 2.0; read as a real number"
