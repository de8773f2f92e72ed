"""A verinn with a fault, on many instances: ``python -m verinn.audit.mutants.child``.

A job as JSON comes on stdin: ``mutant`` (a name, or empty for the healthy verinn), ``blind``, ``unguarded``,
``helper``, ``engine``, ``guided``, ``timeout`` (seconds an instance), and ``instances``: lists of id, model and
property. For each a line of JSON goes to stdout: id, verdict, reason, seconds, text of the answer, and how often the
faulty code has run so far.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from verinn.errors import InputError


def main() -> None:
    """Work off the job. Whatever a library prints goes to stderr."""
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.read())

    from verinn.audit.mutants.catalogue import MUTANTS
    from verinn.audit.mutants.patch import Patch

    with Patch() as fault, Patch() as switches:
        if job["mutant"]:
            MUTANTS[job["mutant"]].apply(fault)
        if job["blind"]:
            blind(switches)
        if job["unguarded"]:
            unguarded(switches)
        if not job["guided"]:
            alone(switches)
        for name, model, prop in job["instances"]:
            record = _answer(model, prop, job)
            told.write(json.dumps({"id": name, "calls": fault.calls, **record}) + "\n")
            told.flush()


def blind(patch: Any) -> None:
    """No counterexample is ever confirmed: neither an attack's nor one that the search stumbles on."""
    from verinn.search import run

    patch.method(run.Run, "_confirm", lambda original: lambda self, spec, point, case: None)


def unguarded(patch: Any) -> None:
    """The model as read is not compared with ONNX Runtime."""
    from verinn.search import problem

    patch.here(problem, "agree", lambda original: lambda *given, **named: None)


def alone(patch: Any) -> None:
    """Bounds and their search decide by themselves: an exact solver that is asked about what they leave open would
    give the right answer in spite of a fault in them."""
    from verinn.search import run

    for limit in ("TINY", "HANDED", "SHORT"):
        patch.value(run, limit, 0)


def _answer(model: str, prop: str, job: dict[str, Any]) -> dict[str, Any]:
    """One instance; every exception is an error of it alone."""
    from verinn.api import verify
    from verinn.io.instances import parse_models
    from verinn.io.vnnlib import read_query
    from verinn.io.witness import answer_text
    from verinn.options import Options

    began = time.monotonic()
    attack, threads = not job["blind"], 2 if job["helper"] else 1
    options = Options(
        deadline=began + job["timeout"], device="cpu", attack=attack, threads=threads, engine=job["engine"]
    )
    verdict, reason, text = "error", "", ""
    try:
        query = read_query(prop)
        result = verify(parse_models(model), query, options)
        verdict, reason, text = result.verdict.value, result.reason, answer_text(query, result)
    except InputError as error:
        verdict, reason = "refused", str(error)
    except Exception as error:  # a fault may break anything
        reason = f"{type(error).__name__}: {error}"[:200]
    return {"verdict": verdict, "reason": reason, "text": text, "seconds": round(time.monotonic() - began, 3)}


if __name__ == "__main__":
    main()
