"""What a region search answers: one of five verdicts, always with what was covered and what was taken for granted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from verinn.result import Witness


class Kind(Enum):
    """``SAFE_CONTINUOUS``: no real input of the region violates. ``SAFE_ON_GRID``: none of the grid's points does.
    ``SAFE_FOR_MANIPULATIONS``: none that the manipulations and assumptions named lead to. ``UNSAFE``: a witness was
    replayed. ``UNKNOWN``: none of these was shown.
    """

    SAFE_CONTINUOUS = "safe-continuous"
    SAFE_ON_GRID = "safe-on-grid"
    SAFE_FOR_MANIPULATIONS = "safe-for-manipulations"
    UNSAFE = "unsafe"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Cover:
    """``done`` of ``total`` things (points, cells, subspaces) are decided: whole numbers of any size."""

    what: str
    done: int
    total: int

    def __str__(self) -> str:
        share = "all" if self.done == self.total else f"{100 * self.done / max(1, self.total):.4g} %"
        return f"{count(self.done)} of {count(self.total)} {self.what} ({share})"


def count(number: int) -> str:
    """A whole number, written out unless it is very long."""
    if number < 10**15:
        return f"{number:,}"
    digits = str(number) if number < 10**4000 else ""
    return f"{digits[0]}.{digits[1:4]}e{len(digits) - 1}" if digits else f"2^{number.bit_length() - 1} and more"


def written(value: Any) -> Any:
    """The value with whole numbers that Python refuses to write out (above 4300 digits) told in words."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 10**4000 else count(value)
    if isinstance(value, Mapping):
        return {key: written(one) for key, one in value.items()}
    return [written(one) for one in value] if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class Report:
    """The verdict with its evidence.

    ``point``: the input of a witness as fed to ONNX Runtime, float32. ``witness``: what was fed and returned.
    ``moved`` of ``inputs``: how many dimensions the region has. ``replayed``: what exactly was run.
    """

    kind: Kind
    question: str
    region: str
    inputs: int
    moved: int
    covers: tuple[Cover, ...] = ()
    assumptions: tuple[str, ...] = ()
    point: np.ndarray | None = None
    witness: Witness | None = None
    replayed: str = ""
    reason: str = ""
    warnings: tuple[str, ...] = ()
    statistics: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The verdict on the first line, its evidence on the others."""
        made = [self.kind.value, f"question: {self.question}", f"region: {self.region}"]
        made.append(f"dimensions: {self.moved} of {self.inputs} inputs move")
        made += [f"covered: {cover}" for cover in self.covers]
        made += [f"assumption: {text}" for text in self.assumptions or ("none",)]
        made += [f"{key}: {value}" for key, value in self.extra.items() if isinstance(value, (str, int, float))]
        if self.replayed:
            made.append(f"replayed: {self.replayed}")
        if self.witness is not None:
            for name, values in self.witness.values.items():
                if values.size <= 64:
                    made.append(f"{name}: {' '.join(repr(value) for value in values.ravel().tolist())}")
        if self.reason:
            made.append(f"reason: {self.reason}")
        return made

    def record(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "verdict": self.kind.value,
            "question": self.question,
            "region": self.region,
            "dimensions": {"moved": self.moved, "inputs": self.inputs},
            "covered": [written(vars(cover)) for cover in self.covers],
            "assumptions": list(self.assumptions),
            "replayed": self.replayed,
            "witness": None if self.witness is None else dict(self.witness.values),
            "reason": self.reason,
            "warnings": list(self.warnings),
            "statistics": written(self.statistics),
            **written(self.extra),
        }
