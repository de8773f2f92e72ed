"""Mutants against a suite: which instance of which family shows the fault."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verinn.audit.findings import ALARMS, CLASSES, classify, contradictions
from verinn.audit.instance import Instance, Suite
from verinn.audit.mutants.mutant import Mutant
from verinn.audit.rounded import settled
from verinn.audit.runner import REFUSED, Claim
from verinn.audit.verdict import VERDICTS
from verinn.audit.witness import Judgement, ask
from verinn.io.instances import parse_models

_ROOT = Path(__file__).resolve().parents[3]
_STARTING = 60.0  # seconds that the child may take to begin


@dataclass(frozen=True)
class Catch:
    """What became of a mutant.

    ``killer``: the instance that shows the fault, with its ``family``; empty when the mutant survived. ``how``:
    the class of the claim (``findings.py``), or ``contradiction``. ``calls``: how often the faulty code ran.
    ``tried``: instances answered; ``errors``: of them those that ended in an error or were refused.
    """

    mutant: str
    room: str
    fault: str
    killer: str = ""
    family: str = ""
    how: str = ""
    calls: int = 0
    tried: int = 0
    errors: int = 0
    seconds: float = 0.0
    note: str = ""

    @property
    def killed(self) -> bool:
        return bool(self.killer)


@dataclass(frozen=True)
class Bounds:
    """Seconds for an instance, and for a mutant in all."""

    timeout: float = 4.0
    patience: float = 120.0


HEALTHY = Mutant("", "", "no fault at all", lambda patch: None)


def hunt(suite: Suite, instances: Sequence[Instance], mutant: Mutant, bounds: Bounds, first: str = "") -> Catch:
    """Run a mutant until an instance shows it, or all have been tried, or the patience is at its end.

    A mutant of proofs is tried on instances that have a counterexample, since nothing else can show it. The instance
    called ``first`` is tried before all others.
    """
    began = time.monotonic()
    claims: list[Claim] = []
    calls = errors = 0
    note = ""
    ordered = sorted(_ordered(suite, instances, mutant), key=lambda one: one.id != first)
    for record in _answers(suite, ordered, mutant, bounds):
        if "note" in record:
            note = record["note"]
            continue
        claim = _claim(suite, mutant, record)
        claims.append(claim)
        calls = record["calls"]
        errors += claim.verdict in ("error", REFUSED)
        how = _shown(suite, claims)
        if how:
            instance = next(one for one in suite.instances if one.id == claim.id)
            took = time.monotonic() - began
            return Catch(
                mutant.name, mutant.room, mutant.fault, claim.id, instance.family, how, calls, len(claims), errors, took
            )
    took = time.monotonic() - began
    return Catch(mutant.name, mutant.room, mutant.fault, "", "", "", calls, len(claims), errors, took, note)


def _ordered(suite: Suite, instances: Sequence[Instance], mutant: Mutant) -> list[Instance]:
    labels = {name: truth.label for name, truth in suite.truths.items()}
    related = {member for relation in suite.relations for member in relation.members}
    apt = [one for one in instances if not mutant.blind or labels.get(one.id) == "sat"]
    rest = [one for one in instances if mutant.blind and labels.get(one.id) is None and one.id in related]
    return [*sorted(apt, key=mutant.rank), *sorted(rest, key=mutant.rank)]


def _shown(suite: Suite, claims: Sequence[Claim]) -> str:
    """How the last claim shows the fault, or nothing."""
    kind = classify(claims[-1], suite.truths.get(claims[-1].id))
    assert kind in CLASSES
    if kind in ALARMS:
        return kind
    return "contradiction" if contradictions(suite, claims) else ""


def _claim(suite: Suite, mutant: Mutant, record: dict[str, Any]) -> Claim:
    judgement = Judgement("")
    if record["verdict"] == "sat":
        instance = next(one for one in suite.instances if one.id == record["id"])
        with tempfile.TemporaryDirectory() as folder:
            seen = ask(_model(suite, instance), str(suite.folder / instance.vnnlib), record["text"], Path(folder))
        judgement = settled(suite, instance, seen) or seen
    verdict = record["verdict"] if record["verdict"] in VERDICTS else REFUSED
    return Claim(
        record["id"], mutant.name, "", 0.0, verdict, record["seconds"], 0.0, 0.0, judgement.kind, judgement.detail,
        record["reason"],
    )  # fmt: skip


def _model(suite: Suite, instance: Instance) -> str:
    models = parse_models(instance.onnx)
    folder = suite.folder.resolve()
    if isinstance(models, str):
        return str(folder / models)
    return repr([(name, str(folder / path)) for name, path in models.items()])


def _answers(
    suite: Suite, instances: Sequence[Instance], mutant: Mutant, bounds: Bounds
) -> Generator[dict[str, Any], None, None]:
    """The child's records as they come. A child that dies or hangs is started again after the instance that
    it was at; closing the iterator ends it."""
    left = list(instances)
    end = time.monotonic() + bounds.patience
    while left and time.monotonic() < end:
        done = 0
        with contextlib.closing(_one_child(suite, left, mutant, bounds, end)) as records:
            for record in records:
                done += 1
                yield record
        if done < len(left) and time.monotonic() < end:  # it died at the next one
            yield {
                "id": left[done].id, "verdict": "error", "reason": "the process ended", "text": "", "calls": 0,
                "seconds": 0.0,
            }  # fmt: skip
            done += 1
        left = left[done:]
    if left:
        yield {"note": f"{len(left)} instances were left when the patience ended"}


def _one_child(
    suite: Suite, instances: Sequence[Instance], mutant: Mutant, bounds: Bounds, end: float
) -> Generator[dict[str, Any], None, None]:
    job = {
        "mutant": mutant.name,
        "blind": mutant.blind,
        "unguarded": mutant.unguarded,
        "helper": mutant.helper,
        "engine": mutant.engine,
        "guided": mutant.guided,
        "timeout": bounds.timeout,
        "instances": [[one.id, _model(suite, one), str((suite.folder / one.vnnlib).resolve())] for one in instances],
    }
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(
        part for part in (str(_ROOT), environment.get("PYTHONPATH", "")) if part
    )
    if not mutant.helper:
        environment.setdefault("OMP_NUM_THREADS", "1")
    child = subprocess.Popen(
        [sys.executable, "-m", "verinn.audit.mutants.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env=environment, start_new_session=True,
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    watch = _Watch(child.pid, min(end, time.monotonic() + _STARTING + bounds.timeout))
    try:
        child.stdin.write(json.dumps(job))
        child.stdin.close()
        for line in child.stdout:
            watch.end = min(end, time.monotonic() + 4 * bounds.timeout + 10)
            yield json.loads(line)
    except BrokenPipeError:
        return
    finally:
        watch.stop()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.stdout.close()
        child.wait()


class _Watch(threading.Thread):
    """Kills a child that says nothing until ``end``."""

    def __init__(self, group: int, end: float):
        super().__init__(daemon=True)
        self.end = end
        self._group = group
        self._done = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._done.wait(max(0.05, min(1.0, self.end - time.monotonic()))):
            if time.monotonic() >= self.end:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._group, signal.SIGKILL)
                return

    def stop(self) -> None:
        self._done.set()
        self.join()
