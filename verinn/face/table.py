"""What came out of a list of instances: a table, set by set."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from verinn.audit.verdict import DECIDED

if TYPE_CHECKING:
    from verinn.bench import Row

Truth = Mapping[tuple[str, str], str]


@dataclass(frozen=True)
class Summary:
    """The counts of one set, or of all. ``solved`` are right or unrefuted answers: wrong ones don't count."""

    name: str
    instances: int
    solved: int
    sat: int
    unsat: int
    unknown: int
    timeout: int
    error: int
    wrong: int
    bad: int
    median: float
    total: float


def is_wrong(row: Row, truth: Truth) -> bool:
    expected = truth.get(row.key, "")
    return row.verdict in DECIDED and expected in DECIDED and row.verdict != expected


def is_bad(row: Row) -> bool:
    """A `sat` whose witness did not stand the check."""
    return row.verdict == "sat" and row.witness != "ok"


def faults(rows: Sequence[Row], truth: Truth) -> int:
    return sum(is_wrong(row, truth) or is_bad(row) for row in rows)


def summaries(rows: Sequence[Row], truth: Truth) -> list[Summary]:
    """One summary a set, in order of appearance, and one of all when there are several sets."""
    sets = list(dict.fromkeys(row.set for row in rows))
    parts = [_summary(name, [row for row in rows if row.set == name], truth) for name in sets]
    return parts if len(parts) == 1 else [*parts, _summary("all", rows, truth)]


def _summary(name: str, rows: Sequence[Row], truth: Truth) -> Summary:
    count = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("sat", "unsat", "unknown")}
    times = [row.seconds for row in rows]
    return Summary(
        name=name,
        instances=len(rows),
        solved=sum(row.verdict in DECIDED and not is_wrong(row, truth) and not is_bad(row) for row in rows),
        sat=count["sat"],
        unsat=count["unsat"],
        unknown=count["unknown"],
        timeout=sum(row.verdict == "timeout" for row in rows),
        error=sum(row.verdict == "error" for row in rows),
        wrong=sum(is_wrong(row, truth) for row in rows),
        bad=sum(is_bad(row) for row in rows),
        median=statistics.median(times) if times else 0.0,
        total=sum(times),
    )


def show(rows: Sequence[Row], truth: Truth) -> None:
    """Print the table, and below it a line for every fault."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("set", no_wrap=True)
    titles = ("instances", "solved", "sat", "unsat", "unknown", "timeout", "error", "wrong", "bad witness")
    for title in (*titles, "median s", "total s"):
        table.add_column(title, justify="right")
    for part in summaries(rows, truth):
        counts = (part.instances, part.solved, part.sat, part.unsat, part.unknown, part.timeout, part.error)
        marked = [Text(str(n), style="bold red" if n else "") for n in (part.wrong, part.bad)]
        table.add_row(Text(part.name), *map(str, counts), *marked, f"{part.median:.2f}", f"{part.total:.1f}")
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
    known = sum(row.key in truth for row in rows)
    console.print(f"truth known for {known} of {len(rows)} instances", highlight=False)
    for row in rows:
        if is_wrong(row, truth):
            text = f"WRONG: {row.onnx} {row.vnnlib}: {row.verdict}, expected {truth[row.key]}"
            console.print(Text(text, style="bold red"))
        elif is_bad(row):
            console.print(Text(f"BAD WITNESS: {row.onnx} {row.vnnlib}: {row.witness}", style="bold red"))
