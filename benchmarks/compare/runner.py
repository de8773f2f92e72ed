"""The instances one by one, and on each the tools in turns, so that a noisy minute hits all of them alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.compare.rows import Row
from verinn.audit.tools import Tool
from verinn.audit.trial import attempt
from verinn.io.instances import Instance


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


def measure(tool: Tool, instance: Instance, round_: int, grace: float, variables: Mapping[str, str]) -> Row:
    """The row of one run."""
    trial = attempt(tool, instance, variables, grace)
    ended = trial.ended
    return Row(
        set=instance.set,
        onnx=instance.onnx,
        vnnlib=instance.vnnlib,
        timeout=instance.timeout,
        expected=instance.expected,
        tool=tool.name,
        version=tool.version,
        round=round_ + 1,
        verdict=trial.verdict,
        seconds=round(ended.seconds, 3) if ended else 0.0,
        cpu_seconds=round(ended.cpu, 3) if ended else 0.0,
        memory_mb=round(ended.memory, 1) if ended else 0.0,
        witness=trial.judgement.short if trial.judgement else "",
        reason=trial.reason,
    )
