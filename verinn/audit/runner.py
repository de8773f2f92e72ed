"""A suite against a tool: each instance alone, under a neutral name, with nothing beside it that tells the truth."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from verinn.audit.instance import Instance, Suite
from verinn.audit.parallel import in_parallel
from verinn.audit.process import Running
from verinn.audit.rounded import settled
from verinn.audit.tools import Tool
from verinn.audit.trial import Trial, attempt
from verinn.errors import InputError
from verinn.io.instances import Instance as Listed
from verinn.io.instances import parse_models

_FOLDERS = re.compile(r"(?<![\w.])/(?:[\w.+-]+/)+")  # a reason should read the same on every machine
REFUSED = "refused"  # beside the verdicts: the tool was not started, it can't take the instance


@dataclass(frozen=True)
class Claim:
    """What a tool said of an instance: a row of the results file.

    ``verdict``: one of ``VERDICTS``, or ``refused``. ``witness``: the class of the counterexample shown (see
    ``witness.py``), empty where the verdict is not `sat`; ``detail`` why. Times in seconds, memory in MiB.
    """

    id: str
    tool: str
    version: str
    timeout: float
    verdict: str
    seconds: float
    cpu_seconds: float
    memory_mb: float
    witness: str = ""
    detail: str = ""
    reason: str = ""

    @property
    def run(self) -> tuple[str, str, str, float]:
        """What is not run again once its row is there."""
        return self.id, self.tool, self.version, self.timeout


@dataclass(frozen=True)
class Limits:
    """``timeout``: seconds for every instance, None for those of the suite; the tool is killed ``grace`` seconds
    later, or when its processes hold more than ``memory`` MiB together."""

    timeout: float | None = None
    grace: float = 5.0
    memory: float | None = None

    def of(self, instance: Instance) -> float:
        """The time-out of an instance."""
        return instance.timeout if self.timeout is None else self.timeout


def chosen(suite: Suite, text: str = "", quick: bool = False) -> list[Instance]:
    """The instances whose id, family or operators hold ``text``; only those of the quick slice, if asked for.

    Raises InputError when there are none."""
    found = [
        instance
        for instance in suite.instances
        if text in " ".join((instance.id, instance.family, *instance.operators)) and (instance.quick or not quick)
    ]
    if not found:
        raise InputError(f"no instance matches `{text}`", file=str(suite.folder), hint="check --filter and --quick")
    return found


def claims(
    suite: Suite,
    instances: Sequence[Instance],
    tool: Tool,
    limits: Limits,
    variables: Mapping[str, str],
    jobs: int = 1,
    answers: Path | None = None,
) -> Generator[Claim, None, None]:
    """Run the tool on the instances, ``jobs`` at a time; the claims in the order in which they come.

    ``answers``: a folder in which the text of each `sat` is kept as ID.txt. Closing the iterator ends what runs.
    """
    return in_parallel(instances, jobs, partial(_claim, suite, tool, limits, variables, answers))


def _claim(
    suite: Suite,
    tool: Tool,
    limits: Limits,
    variables: Mapping[str, str],
    answers: Path | None,
    instance: Instance,
    running: Running,
) -> Claim:
    trial = run_one(suite, instance, tool, limits, variables, running)
    if answers is not None and trial.verdict == "sat":
        answers.mkdir(parents=True, exist_ok=True)
        (answers / f"{instance.id}.txt").write_text(trial.text, encoding="utf-8")
    trial = replace(trial, judgement=settled(suite, instance, trial.judgement))
    return claim_of(instance, tool, limits, trial)


def run_one(
    suite: Suite,
    instance: Instance,
    tool: Tool,
    limits: Limits,
    variables: Mapping[str, str],
    running: Running | None = None,
) -> Trial:
    """Run the tool on one instance, copied to a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="instance-") as folder:
        listed = secluded(suite, instance, Path(folder), limits.of(instance))
        return attempt(tool, listed, neutral(variables), limits.grace, limits.memory, running)


def secluded(suite: Suite, instance: Instance, folder: Path, timeout: float) -> Listed:
    """Copy an instance's files into ``folder`` under names that are the same for all instances."""
    models = parse_models(instance.onnx)
    several = {"": models} if isinstance(models, str) else models
    names = {}
    for number, (name, path) in enumerate(several.items()):
        names[name] = f"model{number or ''}{_ending(path, '.onnx')}"
        _copy(suite.folder / path, folder / names[name])
    onnx = names[""] if isinstance(models, str) else repr(list(names.items()))
    vnnlib = f"property{_ending(instance.vnnlib, '.vnnlib')}"
    _copy(suite.folder / instance.vnnlib, folder / vnnlib)
    return Listed(onnx, vnnlib, timeout, folder, "audit")


def _ending(path: str, plain: str) -> str:
    return f"{plain}.gz" if path.endswith(".gz") else plain


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)  # without its times
    except OSError as error:
        raise InputError(f"can't be read ({error.strerror})", file=str(source), hint="rebuild the suite") from None


def neutral(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment without what tells where the audit was started."""
    return {name: value for name, value in variables.items() if name not in ("PWD", "OLDPWD")}


def claim_of(instance: Instance, tool: Tool, limits: Limits, trial: Trial) -> Claim:
    """The row of a run."""
    ended, judgement = trial.ended, trial.judgement
    return Claim(
        id=instance.id,
        tool=tool.name,
        version=tool.version,
        timeout=limits.of(instance),
        verdict=trial.verdict if trial.started else REFUSED,
        seconds=round(ended.seconds, 3) if ended else 0.0,
        cpu_seconds=round(ended.cpu, 3) if ended else 0.0,
        memory_mb=round(ended.memory, 1) if ended else 0.0,
        witness=judgement.kind if judgement else "",
        detail=judgement.detail if judgement else "",
        reason=_FOLDERS.sub("…/", trial.reason),
    )
