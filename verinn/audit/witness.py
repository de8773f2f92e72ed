"""What a shown counterexample is worth: the classes, and how a process of its own is asked for one.

The replay (``judge.py``) is a process of its own: what it loads stays out of the runner, whose size would
otherwise show in the peak memory of what it starts, and a model that crashes ONNX Runtime crashes no run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VALID = "valid"  # inside the input set and violating, without any tolerance
ROUNDED = "rounded"  # valid in ONNX Runtime, while the exact function does not violate there
OUTSIDE = "outside"  # not in the property's input set
UNVIOLATED = "not violating"  # in the input set, but the assertions on the outputs don't hold
MISSING = "missing"  # the answer shows no counterexample
MALFORMED = "malformed"  # the answer shows something that can't be read as one
FAILED = "failed"  # the replay itself failed: nothing is known of the counterexample
CLASSES = (VALID, ROUNDED, OUTSIDE, UNVIOLATED, MISSING, MALFORMED, FAILED)
FALSE = (OUTSIDE, UNVIOLATED, MALFORMED)

_LIMIT = 300.0  # seconds that a replay may take
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Judgement:
    """The class of a counterexample, why, and what the replay saw: values by variable, as ONNX Runtime has them."""

    kind: str
    detail: str = ""
    values: Mapping[str, Sequence[float]] | None = None

    @property
    def short(self) -> str:
        """As the tables of bench and compare say it: ``ok``, ``none`` or ``bad: why``."""
        if self.kind in (VALID, MISSING):
            return {VALID: "ok", MISSING: "none"}[self.kind]
        return f"bad: {self.detail or self.kind}"


def ask(model: str, prop: str, text: str, scratch: Path) -> Judgement:
    """Judge the counterexample in an answer's text. ``model``: a path, or the text of a list of networks."""
    answer = scratch / "answer"
    answer.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "verinn.audit.judge", model, prop, str(answer)]
    found = os.pathsep.join(part for part in (str(_ROOT), os.environ.get("PYTHONPATH", "")) if part)
    environment = {**os.environ, "PYTHONPATH": found}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, env=environment)
    except subprocess.TimeoutExpired:
        return Judgement(FAILED, "the replay took too long")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Judgement(FAILED, f"the replay failed ({last[:200]})")
    return read(done.stdout)


def read(text: str) -> Judgement:
    """The judgement that ``judge.py`` printed."""
    record: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return Judgement(record["kind"], record["detail"], record["values"])
