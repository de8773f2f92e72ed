"""The instances one by one, and on each the tools in turns, so that a noisy minute hits all of them alike."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.compare import process
from benchmarks.compare.rows import Row
from benchmarks.compare.tools import Tool
from benchmarks.compare.verdict import outcome
from verinn.errors import InputError
from verinn.io.instances import Instance

_JUDGE_LIMIT = 300.0  # seconds that a replay may take
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_ROOT = Path(__file__).resolve().parents[2]


def rotated(tools: Sequence[Tool], turn: int) -> list[Tool]:
    """The tools, another one first each turn."""
    start = turn % len(tools)
    return [*tools[start:], *tools[:start]]


def plan(instances: Sequence[Instance], tools: Sequence[Tool], rounds: int) -> Iterator[tuple[int, Instance, Tool]]:
    """(round, instance, tool) in the order in which they run."""
    for turn in range(rounds * len(instances)):
        round_, number = divmod(turn, len(instances))
        for tool in rotated(tools, number + round_):
            yield round_, instances[number], tool


def environment(threads: int | None, cpu_only: bool) -> dict[str, str]:
    """What every tool alike finds in its environment."""
    variables = dict(os.environ)
    if threads is not None:
        variables.update(dict.fromkeys(_THREADS, str(threads)))
    if cpu_only:
        variables["CUDA_VISIBLE_DEVICES"] = ""
    return variables


def measure(tool: Tool, instance: Instance, round_: int, grace: float, variables: Mapping[str, str]) -> Row:
    """One run, and the replay of its witness; the replay is not timed."""
    with tempfile.TemporaryDirectory(prefix="verinn-compare-") as name:
        scratch = Path(name)
        result = scratch / "result"
        inside = scratch / "folder"
        inside.mkdir()
        try:
            command = tool.command(instance, result)
            folder = inside if tool.scratch else Path.cwd()
            ended = process.run(command, instance.timeout + grace, folder, variables, scratch)
        except (InputError, OSError) as error:
            return _row(tool, instance, round_, "error", reason=f"not started: {error}")
        verdict, reason, text = outcome(tool, ended, _read(result))
        witness = replay(instance, text, scratch) if verdict == "sat" else ""
    return _row(tool, instance, round_, verdict, ended, witness, reason)


def _row(
    tool: Tool,
    instance: Instance,
    round_: int,
    verdict: str,
    ended: process.Ended | None = None,
    witness: str = "",
    reason: str = "",
) -> Row:
    return Row(
        set=instance.set,
        onnx=instance.onnx,
        vnnlib=instance.vnnlib,
        timeout=instance.timeout,
        expected=instance.expected,
        tool=tool.name,
        version=tool.version,
        round=round_ + 1,
        verdict=verdict,
        seconds=round(ended.seconds, 3) if ended else 0.0,
        cpu_seconds=round(ended.cpu, 3) if ended else 0.0,
        memory_mb=round(ended.memory, 1) if ended else 0.0,
        witness=witness,
        reason=" ".join(reason.split()),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # the tool wrote none
        return ""


def replay(instance: Instance, text: str, scratch: Path) -> str:
    """What ``judge.py`` says of the witness in an answer's text."""
    answer = scratch / "answer"
    answer.write_text(text, encoding="utf-8")
    command = [sys.executable, str(Path(__file__).with_name("judge.py"))]
    command += [instance.model_argument, str(instance.property_path), str(answer)]
    found = os.pathsep.join(part for part in (str(_ROOT), os.environ.get("PYTHONPATH", "")) if part)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_JUDGE_LIMIT, env={**os.environ, "PYTHONPATH": found}
        )
    except subprocess.TimeoutExpired:
        return "bad: the replay took too long"
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return f"bad: the replay failed ({last[:200]})"
    return done.stdout.strip()
