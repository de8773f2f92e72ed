"""The one answer of a run: on stdout, in the results file, as JSON. Given once, whoever gives it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from verinn.errors import InputError
from verinn.result import Result, Verdict

if TYPE_CHECKING:
    from verinn.ir.query import Query


@dataclass(frozen=True)
class Places:
    """Where the answer goes besides stdout, and how it is worded."""

    results: str | None = None
    json: str | None = None
    assignments: str | None = None
    standard: bool = False  # the VNN-LIB standard's word for a time-out
    verbose: bool = False


class Answer:
    """Gives the verdict once. The main thread and the watching thread both try; the first one wins."""

    def __init__(self, places: Places, start: float, write: Callable[[str], None]):
        """``start``: the run's start (time.monotonic()). ``write`` puts text on the real stdout."""
        self._places = places
        self._start = start
        self._write = write
        self._lock = threading.Lock()
        self._claimed = False

    def claim(self) -> bool:
        """True for exactly one caller, who then gives the answer or tells an error."""
        with self._lock:
            first = not self._claimed
            self._claimed = True
            return first

    def give(self, result: Result, query: Query | None) -> None:
        """Print the verdict, then write the files. Raises InputError when a file can't be written."""
        text, result = self._text(result, query)
        self._write(text)
        if result.reason:
            tell(f"{result.verdict.value}: {result.reason}")
        if self._places.results is not None:
            from verinn.io.places import write_text

            write_text(self._places.results, text)
        if self._places.json is not None:
            from verinn.io.places import write_text

            write_text(self._places.json, self._json(result))
        if self._places.assignments is not None and result.witness is not None and query is not None:
            from verinn.io.witness import serialise

            serialise(query, result.witness, self._places.assignments)
        if self._places.verbose:
            self._tell_statistics(result)

    def _text(self, result: Result, query: Query | None) -> tuple[str, Result]:
        """The answer's text. A `sat` whose witness can't be printed is no `sat`."""
        word = "timed-out" if self._places.standard else "timeout"
        if result.verdict is Verdict.TIMEOUT:
            return f"{word}\n", result
        if result.verdict is not Verdict.SAT or query is None:
            return f"{result.verdict.value}\n", result
        from verinn.io.witness import answer_text

        try:
            return answer_text(query, result, word), result
        except ValueError as error:
            failed = Result(Verdict.UNKNOWN, reason=f"internal error: {error}", statistics=result.statistics)
            return f"{failed.verdict.value}\n", failed

    def _json(self, result: Result) -> str:
        record: dict[str, Any] = {
            "verdict": result.verdict.value,
            "reason": result.reason,
            "seconds": round(time.monotonic() - self._start, 3),
            "plan": result.plan,
            "statistics": result.statistics,
            "warnings": result.warnings,
        }
        if result.witness is not None:
            record["witness"] = result.witness.values
        return json.dumps(plain(record), indent=2, allow_nan=False) + "\n"

    def _tell_statistics(self, result: Result) -> None:
        for title, mapping in (("plan", result.plan), ("statistics", result.statistics)):
            for key, value in mapping.items():
                tell(f"{title}: {key} = {value}")
        tell(f"seconds from process start: {time.monotonic() - self._start:.2f}")


def tell(line: str) -> None:
    """One line on stderr; a closed stderr is no reason to fail."""
    with contextlib.suppress(OSError, ValueError):
        print(f"verinn: {' '.join(line.split())}", file=sys.stderr, flush=True)


def tell_error(error: InputError) -> None:
    tell(f"error: {error}")


def plain(value: Any) -> Any:
    """The value as JSON knows it: arrays as lists, NaN and infinities as text, all else as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def private_stdout() -> Callable[[str], None]:
    """A writer to the real stdout; from now on, whatever else prints there goes to stderr instead.

    The first line on stdout has to be the verdict, and native libraries print as they please.
    """
    try:
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
    except (OSError, ValueError, AttributeError):
        return lambda text: None

    def write(text: str) -> None:
        data = text.encode()
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(kept, data) :]

    return write
