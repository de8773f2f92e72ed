"""What a verification run hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np


class Verdict(Enum):
    SAT = "sat"
    UNSAT = "unsat"
    UNKNOWN = "unknown"
    TIMEOUT = "timeout"


@dataclass(frozen=True, eq=False)
class Witness:
    """A replayed counterexample: the value of every declared variable of the query, by name.

    Values have the variable's shape; inputs are the very numbers that were fed to ONNX Runtime, all
    other values are what ONNX Runtime returned for the original file.
    """

    values: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Result:
    """The verdict; for `sat` a witness; for `unknown` the reason, in one sentence."""

    verdict: Verdict
    witness: Witness | None = None
    reason: str = ""
    statistics: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
