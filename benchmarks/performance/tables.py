"""The measurements as tables: a table for each operation, a column for each size."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.performance.rows import Machine, Row


def show(rows: Sequence[Row], facts: Machine) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    where = facts.gpu or facts.cpu
    console.print(f"{where}, {facts.cores} cores, {facts.threads} threads, torch {facts.torch}", highlight=False)
    for group, operation in dict.fromkeys((row.group, row.operation) for row in rows):
        part = [row for row in rows if (row.group, row.operation) == (group, operation)]
        console.print()
        console.print(_searches(part) if group == "search" else _rates(group, operation, part))


def _rates(group: str, operation: str, rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, title=f"{group}: {operation}, bounds a second", title_justify="left")
    table.add_column("case", no_wrap=True)
    table.add_column("dtype")
    sizes = list(dict.fromkeys((row.domains, row.rows) for row in rows))
    for domains, count in sizes:
        table.add_column(f"{domains}x{count}" if count else str(domains), justify="right")
    for case, dtype in dict.fromkeys((row.case, row.dtype) for row in rows):
        found = {(row.domains, row.rows): row for row in rows if (row.case, row.dtype) == (case, dtype)}
        table.add_row(Text(case), dtype, *(_rate(found.get(size)) for size in sizes))
    table.caption = "columns: domains x rows" if any(count for _, count in sizes) else "columns: domains"
    table.caption_justify = "left"
    return table


def _rate(row: Row | None) -> Text:
    if row is None or not row.repeats:
        return Text("-", style="dim")
    return Text(compact(row.bounds_per_second))


def compact(number: float) -> str:
    """Three digits and a letter: 1230000 is 1.23M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def _searches(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, title="search: branch and bound without attack", title_justify="left")
    table.add_column("case", no_wrap=True)
    table.add_column("dtype")
    for title in ("domains", "seconds", "domains a second", "verdict"):
        table.add_column(title, justify="right")
    for row in rows:
        rate = compact(row.domains_per_second)
        table.add_row(Text(row.case), row.dtype, str(row.domains), f"{row.seconds:.2f}", rate, row.note)
    return table
