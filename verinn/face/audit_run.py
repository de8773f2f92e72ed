"""``verinn audit run``: the soundness suite against any verifier, and what came of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from verinn.audit.instance import Instance, load_suite
from verinn.audit.log import Log
from verinn.audit.report import Audit, as_json, audit, show
from verinn.audit.runner import Claim, Limits, chosen, claims
from verinn.audit.tools import Tool
from verinn.audit.trial import environment
from verinn.bench import positive
from verinn.errors import InputError
from verinn.face.answer import tell
from verinn.face.audit_tool import add_tool, options_of, tool_of
from verinn.face.verify import seconds
from verinn.io.files import write_whole

SUITE = "soundness"
INTERRUPTED = 130
ROWS, JSON, PAGE, ANSWERS = "claims.csv", "report.json", "report.html", "answers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", nargs="?", default=SUITE, metavar="SUITE", help=f"its folder (default: {SUITE})")
    add_tool(parser)
    add_limits(parser)
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="instances at a time")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only ids, families, operators that hold TEXT")
    parser.add_argument("--quick", action="store_true", help="only the quick slice")
    parser.add_argument(
        "--out", metavar="FOLDER", help=f"write {ROWS}, {JSON}, {PAGE}; instances that are in {ROWS} are not run again"
    )


def add_limits(parser: argparse.ArgumentParser) -> None:
    """The limits of a run, and the environment that the tool finds."""
    parser.add_argument("--timeout", type=seconds, metavar="S", help="for every instance, instead of the suite's")
    parser.add_argument("--memory", type=positive, metavar="MIB", help="kill a tool that holds more")
    parser.add_argument("--threads", type=positive, metavar="N", help="of the tool (as OMP_NUM_THREADS and its like)")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu: hide GPUs")


def limits_of(args: argparse.Namespace) -> Limits:
    """The limits asked for."""
    return Limits(timeout=args.timeout, memory=args.memory)


def run(args: argparse.Namespace, _: bool) -> int:
    """Exit code 0; 1 when something unsound was seen; 130 when interrupted. Raises InputError for bad input."""
    suite = load_suite(args.suite)
    instances = chosen(suite, args.filter, args.quick)
    tool = tool_of(args, default="verinn")
    limits = limits_of(args)
    log = Log(_place(args.out, ROWS), Claim, "an audit")
    wanted = {(item.id, tool.name, tool.version, limits.of(item)) for item in instances}
    rows = [row for row in log.rows if row.run in wanted]
    done = {row.id for row in rows}
    left = [item for item in instances if item.id not in done]
    if rows:
        tell(f"{len(rows)} of {len(instances)} are in {args.out} already")
    interrupted = _run(args, left, tool, log, rows)
    named = (tool.name, tool.version, options_of(args, tool))
    outcome = audit(suite, args.suite, named, limits, rows, len(instances) - len(rows))
    write(outcome, args.out)
    show(outcome)
    if interrupted:
        tell(f"interrupted: {outcome.left} instances are left")
        return INTERRUPTED
    return 1 if outcome.alarming else 0


def _run(args: argparse.Namespace, left: Sequence[Instance], tool: Tool, log: Log[Claim], rows: list[Claim]) -> bool:
    """Run what is left and add its rows; whether it was interrupted."""
    from verinn.face.display import Bar

    suite, variables = load_suite(args.suite), environment(args.threads, args.device == "cpu")
    answers = Path(args.out) / ANSWERS if args.out else None
    coming = claims(suite, left, tool, limits_of(args), variables, args.jobs, answers)
    try:
        with Bar(len(left)) as bar, closing(coming):
            for row in coming:
                log.append(row)
                rows.append(row)
                bar.step(f"{row.id}: {row.verdict} {row.seconds:.2f} s {row.witness} {row.detail} {row.reason}")
    except KeyboardInterrupt:
        return True
    return False


def _place(folder: str | None, name: str) -> Path | None:
    if folder is None:
        return None
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"can't be made ({error.strerror})", file=folder, hint="name another --out") from None
    return Path(folder) / name


def write(outcome: Audit, folder: str | None) -> None:
    """Write the report as JSON and as a page, each file whole or not at all."""
    if folder is None:
        return
    from verinn.audit.page import render

    write_whole(Path(folder) / JSON, json.dumps(as_json(outcome), indent=1, ensure_ascii=False) + "\n")
    write_whole(Path(folder) / PAGE, render(outcome))
    tell(f"{Path(folder) / PAGE} is the report")
