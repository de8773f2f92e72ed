"""What is printed at the end: instance by instance, set by set, and every alarm in its own line."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.compare.rows import Contest, Row, contests, summaries, tools_of

_LOUD = "bold white on red"


def show(rows: Sequence[Row]) -> list[str]:
    """Print everything; returns the alarms."""
    found = contests(rows)
    console = Console()
    if not console.is_terminal:
        console = Console(width=240)
    console.print(_by_instance(found, tools_of(rows)))
    console.print()
    console.print(_by_set(found))
    alarms = [alarm for contest in found for alarm in contest.alarms]
    known = sum(bool(contest.truth) for contest in found)
    console.print(f"truth known for {known} of {len(found)} instances; {len(alarms)} alarms", highlight=False)
    for alarm in alarms:
        console.print(Text(alarm, style=_LOUD))
    return alarms


def _by_instance(found: Sequence[Contest], tools: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("set", "onnx", "vnnlib", "truth"):
        table.add_column(title, overflow="fold")
    for tool in tools:
        table.add_column(tool, justify="right", no_wrap=True)
    for contest in found:
        first = contest.first
        names = (Text(first.set), Text(_short(first.onnx)), Text(_short(first.vnnlib)), contest.truth or "?")
        cells = contest.cells
        table.add_row(*names, *(_cell(contest, cells.get(tool)) for tool in tools))
    return table


def _short(path: str) -> str:
    """The file's name without its folders and ending; a list of networks as it is."""
    return path if path.startswith("[") else path.rsplit("/", 1)[-1].removesuffix(".onnx").removesuffix(".vnnlib")


def _cell(contest: Contest, row: Row | None) -> Text:
    if row is None:
        return Text("-", style="dim")
    text = f"{row.verdict} {row.seconds:.2f}"
    if row.tool in contest.wrong:
        return Text(f"WRONG {text}", style=_LOUD)
    if contest.is_bad(row):
        return Text(f"bad witness {text}", style="bold red")
    if not contest.is_solved(row):
        return Text(text, style="dim")
    return Text(f"* {text}" if contest.fastest == row.tool else text, style="bold" * (contest.fastest == row.tool))


def _by_set(found: Sequence[Contest]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("set", no_wrap=True)
    table.add_column("tool", no_wrap=True)
    titles = ("instances", "solved", "sat", "unsat", "unknown", "timeout", "error", "wrong", "bad witness", "fastest")
    for title in (*titles, "total s", "peak MiB"):
        table.add_column(title, justify="right")
    before = ""
    for part in summaries(found):
        counts = (part.instances, part.solved, part.sat, part.unsat, part.unknown, part.timeout, part.error)
        marked = [Text(str(n), style="bold red" if n else "") for n in (part.wrong, part.bad)]
        name = Text(part.set if part.set != before else "")
        last = (str(part.fastest), f"{part.seconds:.1f}", f"{part.memory:.0f}")
        table.add_row(name, Text(part.tool), *map(str, counts), *marked, *last)
        before = part.set
    return table
