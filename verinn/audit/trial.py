"""One tool on one instance: what it said, what that cost, and what its counterexample is worth."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from verinn.audit import process
from verinn.audit.tools import Tool
from verinn.audit.verdict import last_line, outcome
from verinn.audit.witness import Judgement, ask
from verinn.errors import InputError
from verinn.io.instances import Instance

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PREPARE = 600.0  # seconds that a preparation may take


@dataclass(frozen=True)
class Trial:
    """``verdict``: one of ``VERDICTS``. ``text``: the answer with the counterexample. ``ended`` is None when
    the tool was not started; ``judgement`` is there for every `sat`."""

    verdict: str
    reason: str = ""
    text: str = ""
    ended: process.Ended | None = None
    judgement: Judgement | None = None

    @property
    def started(self) -> bool:
        return self.ended is not None


def environment(threads: int | None, cpu_only: bool) -> dict[str, str]:
    """What every tool alike finds in its environment."""
    variables = dict(os.environ)
    if threads is not None:
        variables.update(dict.fromkeys(_THREADS, str(threads)))
    if cpu_only:
        variables["CUDA_VISIBLE_DEVICES"] = ""
    return variables


def attempt(
    tool: Tool,
    instance: Instance,
    variables: Mapping[str, str],
    grace: float = 0.0,
    memory: float | None = None,
    running: process.Running | None = None,
) -> Trial:
    """Run a tool, killed ``grace`` seconds after the time-out or at ``memory`` MiB; the replay is not timed.

    ``instance.folder`` must be absolute.
    """
    with tempfile.TemporaryDirectory(prefix="verifier-") as name:
        scratch = Path(name)
        result = scratch / "result"
        inside = scratch / "folder"
        inside.mkdir()
        folder = inside if tool.scratch else Path.cwd()
        try:
            fault = _prepare(tool, instance, result, folder, variables, scratch, running)
            if fault:
                return Trial("error", f"not prepared: {fault}")
            command = tool.command(instance, result)
            ended = process.run(command, instance.timeout + grace, folder, variables, scratch, memory, running)
        except (InputError, OSError) as error:
            return Trial("error", " ".join(f"not started: {error}".split()))
        verdict, reason, text = outcome(tool, ended, _read(result))
        judgement = None
        if verdict == "sat":
            judgement = ask(instance.model_argument, str(instance.property_path), text, scratch)
    return Trial(verdict, " ".join(reason.split()), text, ended, judgement)


def _prepare(
    tool: Tool,
    instance: Instance,
    result: Path,
    folder: Path,
    variables: Mapping[str, str],
    scratch: Path,
    running: process.Running | None,
) -> str:
    """Run what has to be run before; why it failed, or nothing."""
    command = tool.preparation(instance, result)
    if not command:
        return ""
    ended = process.run(command, _PREPARE, folder, variables, scratch, running=running)
    return "" if ended.code == 0 else last_line(ended.err) or f"exit code {ended.code}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # the tool wrote none
        return ""
