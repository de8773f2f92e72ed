"""A stand-in for the engine, for tests of the face: verdicts on demand, and every way to misbehave.

The model's file name says what to do. ``install()`` puts it in place of ``verinn.api``; as a program,
``python face_fake.py ARGS`` is ``verinn ARGS`` with the stand-in.
"""

import os
import sys
import time
import types
from types import MappingProxyType
from typing import Any

import numpy as np

from verinn.errors import InputError
from verinn.ir.query import Kind
from verinn.progress import Progress
from verinn.result import Result, Verdict, Witness


def values(query: Any) -> Witness:
    """0.5 for every input, 1.0 for everything else."""
    found = {}
    for variable in query.variables:
        number = 0.5 if variable.kind is Kind.INPUT else 1.0
        found[variable.name] = np.full(variable.shape, number, np.float32)
    return Witness(MappingProxyType(found))


def verify(models: Any, query: Any, options: Any, progress: Any = None) -> Result:
    name = os.path.basename(str(models if isinstance(models, str) else next(iter(models.values()))))
    if progress is not None:
        progress(Progress("search", 3, 4, -0.5, 0.1))
    if name.startswith("sleep"):
        time.sleep(30)
    if name.startswith("print"):
        print("a library talks", flush=True)
        os.write(1, b"native code, too\n")
    if name.startswith("boom"):
        raise ZeroDivisionError("an\nawkward defect")
    if name.startswith("memory"):
        raise MemoryError
    if name.startswith("quit"):
        raise SystemExit(3)
    if name.startswith("crash"):
        os.abort()
    if name.startswith("bad"):
        raise InputError("the file is odd", file=str(models), place="node 3", hint="do better")
    if name.startswith("late") and options.deadline is not None:
        time.sleep(max(0.0, options.deadline - time.monotonic()))
        return Result(Verdict.TIMEOUT)
    if name.startswith("hollow"):
        return Result(Verdict.SAT)
    if name.startswith("sat"):
        return Result(Verdict.SAT, values(query), statistics={"domains": 7, "worst": float("nan")})
    if name.startswith("unknown"):
        return Result(Verdict.UNKNOWN, reason="too hard", warnings=("mind the gap",))
    return Result(Verdict.UNSAT, statistics={"domains": np.int64(7)}, plan={"batch": 64})


def install() -> None:
    api = types.ModuleType("verinn.api")
    api.verify = verify  # type: ignore[attr-defined]
    sys.modules["verinn.api"] = api


if __name__ == "__main__":
    install()
    from verinn.cli import main

    main()
