"""``verinn audit mutants``: faults of our own, injected one by one, and which family of the suite catches which."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from verinn.audit.instance import load_suite
from verinn.audit.mutants.catalogue import MUTANTS
from verinn.audit.mutants.hunt import HEALTHY, Bounds, Catch, hunt
from verinn.audit.runner import chosen
from verinn.errors import InputError
from verinn.face.answer import tell
from verinn.face.audit_run import SUITE
from verinn.face.verify import seconds
from verinn.io.files import read_bytes, write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", nargs="?", default=SUITE, metavar="SUITE", help=f"its folder (default: {SUITE})")
    parser.add_argument("--mutant", action="append", default=[], metavar="NAME", help="only this one; may repeat")
    parser.add_argument("--list", action="store_true", help="tell all mutants, and run none")
    parser.add_argument("--timeout", type=seconds, default=4.0, metavar="S", help="for an instance (default: 4)")
    parser.add_argument("--patience", type=seconds, default=120.0, metavar="S", help="for a mutant (default: 120)")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only ids, families, operators that hold TEXT")
    parser.add_argument("--quick", action="store_true", help="only the quick slice")
    parser.add_argument("--healthy", action="store_true", help="first run verinn without a fault, as blind as mutants")
    parser.add_argument("--out", metavar="FILE", help="write the table as JSON")
    parser.add_argument("--table", metavar="FILE", help="write the table as Markdown")
    parser.add_argument("--known", metavar="FILE", help="an earlier --out: what caught a mutant then is tried first")


def run(args: argparse.Namespace, _: bool) -> int:
    """Exit code 0; 1 when a mutant survives, or the healthy verinn is wrong. Raises InputError for bad input."""
    if args.list:
        for mutant in MUTANTS.values():
            print(f"{mutant.name:24} {mutant.room:10} {mutant.fault}")
        return 0
    suite = load_suite(args.suite)
    instances = chosen(suite, args.filter, args.quick)
    stranger = next((name for name in args.mutant if name not in MUTANTS), None)
    if stranger is not None:
        raise InputError(f"`{stranger}` is no mutant", place="--mutant", hint="verinn audit mutants --list")
    bounds = Bounds(args.timeout, args.patience)
    known = {} if args.known is None else killers(args.known)
    catches: list[Catch] = []
    wrong = False
    if args.healthy:
        well = hunt(suite, instances, HEALTHY, replace(bounds, patience=len(instances) * (args.timeout + 2.0)))
        tell(f"without a fault: {_told(well)}")
        wrong = well.killed
    for name in args.mutant or MUTANTS:
        catch = hunt(suite, instances, MUTANTS[name], bounds, known.get(name, ""))
        tell(f"[{len(catches) + 1}/{len(args.mutant or MUTANTS)}] {name}: {_told(catch)}")
        catches.append(catch)
        if args.out is not None:
            write_whole(args.out, json.dumps([asdict(one) for one in catches], indent=1, ensure_ascii=False) + "\n")
    show(catches)
    if args.table is not None:
        write_whole(args.table, markdown(catches))
    return 1 if wrong or not all(catch.killed for catch in catches) else 0


def killers(path: str) -> dict[str, str]:
    """The instance that caught each mutant, out of a table written by ``--out``."""
    try:
        return {row["mutant"]: row["killer"] for row in json.loads(read_bytes(path))}
    except (ValueError, KeyError, TypeError):
        raise InputError("holds no table of mutants", file=path, hint="name a file written by --out") from None


def markdown(catches: Sequence[Catch]) -> str:
    """The table for people: which family caught which fault."""
    families = Counter(catch.family for catch in catches if catch.killed)
    alive = [catch.mutant for catch in catches if not catch.killed]
    lines = [
        "# Faults injected into verinn, and what caught them",
        "",
        f"{len(catches) - len(alive)} of {len(catches)} mutants are killed by this suite; caught by family: "
        + ", ".join(f"{name} {count}" for name, count in families.most_common())
        + ".",
        "A hunt ends at the first catch, so other families may catch a mutant, too. Made by",
        "`verinn audit mutants soundness --out soundness/mutants.json --table soundness/MUTANTS.md`.",
        "",
        "| mutant | room | fault | family | instance | seen as |",
        "|---|---|---|---|---|---|",
    ]
    for catch in catches:
        cells = (catch.mutant, catch.room, catch.fault, catch.family or "**survived**", catch.killer, catch.how)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _told(catch: Catch) -> str:
    if catch.killed:
        return f"{catch.how} on {catch.killer} ({catch.family}) after {catch.tried} instances, {catch.seconds:.0f} s"
    left = f", {catch.note}" if catch.note else ""
    return (
        f"nothing wrong on {catch.tried} instances, {catch.errors} errors, {catch.calls} calls of the faulty code"
        f"{left}, {catch.seconds:.0f} s"
    )


def show(catches: Sequence[Catch]) -> None:
    """Print a row for each mutant, and how many each family caught."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(_table(catches))
    families = Counter(catch.family for catch in catches if catch.killed)
    console.print("caught by family: " + ", ".join(f"{name} {count}" for name, count in families.most_common()))
    alive = [catch.mutant for catch in catches if not catch.killed]
    console.print(f"{len(catches) - len(alive)} of {len(catches)} mutants killed", highlight=False)
    if alive:
        console.print(Text(f"SURVIVED: {', '.join(alive)}", style="bold red"))


def _table(catches: Sequence[Catch]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for title in ("mutant", "room", "fault", "caught by", "family", "how"):
        table.add_column(title, overflow="fold")
    for title in ("tried", "calls", "s"):
        table.add_column(title, justify="right")
    for catch in catches:
        style = "" if catch.killed else "bold red"
        cells = (catch.mutant, catch.room, catch.fault, catch.killer or "SURVIVED", catch.family, catch.how)
        table.add_row(
            *(Text(cell, style=style) for cell in cells), str(catch.tried), str(catch.calls), f"{catch.seconds:.0f}"
        )
    return table
