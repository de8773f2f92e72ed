"""``python -m benchmarks.compare LIST``: verinn and other verifiers on the same instances, in turns."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.compare.rows import Row, log
from benchmarks.compare.runner import measure, plan
from verinn.audit.log import Log
from verinn.audit.tools import KNOWN, Tool, choose
from verinn.audit.trial import environment
from verinn.bench import positive
from verinn.cli import BAD_INPUT, Parser
from verinn.errors import InputError
from verinn.face.answer import tell, tell_error
from verinn.face.display import Bar
from verinn.face.verify import seconds
from verinn.io.instances import Instance, read_instances, read_truth

INTERRUPTED = 130
_TOOL = f"a known tool ({', '.join(KNOWN)}) or a command line with {{onnx}} {{vnnlib}} {{timeout}} {{result}}"


def arguments() -> Parser:
    parser = Parser(prog="benchmarks.compare", allow_abbrev=False, description=__doc__)
    parser.add_argument("list", metavar="FOLDER_OR_CSV", help="a folder with instances.csv, or a csv")
    parser.add_argument("--tool", action="append", default=[], metavar="NAME[=COMMAND]", help=f"{_TOOL}; may repeat")
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=PATH", help="the interpreter that has a known tool"
    )
    parser.add_argument(
        "--verdict", action="append", default=[], metavar="NAME=REGEX", help="finds the verdict; its last match counts"
    )
    parser.add_argument("--timeout", type=seconds, metavar="S", help="for every instance, instead of the list's")
    parser.add_argument("--grace", type=_more, default=0.0, metavar="S", help="kill so much after the time-out")
    parser.add_argument(
        "--rounds", type=positive, default=1, metavar="N", help="run everything so often; the best counts"
    )
    parser.add_argument("--truth", metavar="CSV", help="columns onnx,vnnlib,expected")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only instances whose names hold TEXT")
    parser.add_argument("--out", metavar="CSV", help="append a row for each run; rows that are there are kept")
    parser.add_argument("--threads", type=positive, metavar="N", help="of each tool (as OMP_NUM_THREADS and its like)")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu: hide GPUs from all tools")
    return parser


def _more(text: str) -> float:
    return 0.0 if text.strip() in ("0", "0.0") else seconds(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 when there are alarms; 2 for bad input; 130 when interrupted."""
    try:
        return run(arguments().parse_args(argv))
    except InputError as error:
        tell_error(error)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED


def run(args: argparse.Namespace) -> int:
    instances = _instances(args)
    results = log(args.out)
    tools, missing = choose(args.tool, _named(args.python, "--python"), _named(args.verdict, "--verdict"))
    for line in missing:
        tell(line)
    rows, interrupted = _run_all(args, instances, tools, results)
    from benchmarks.compare.tables import show

    alarms = show(rows)
    if interrupted:
        tell("interrupted: the table shows what was done")
        return INTERRUPTED
    return 1 if alarms else 0


def _run_all(
    args: argparse.Namespace, instances: Sequence[Instance], tools: Sequence[Tool], log: Log[Row]
) -> tuple[list[Row], bool]:
    """The rows of the instances and tools asked for, old and new; whether it was interrupted."""
    wanted = {
        (instance.onnx, instance.vnnlib, tool.name, round_ + 1, instance.timeout)
        for round_, instance, tool in plan(instances, tools, args.rounds)
    }
    expected = {instance.key: instance.expected for instance in instances}
    rows = [replace(row, expected=expected[row.key]) for row in log.rows if row.run in wanted]
    done = {row.run for row in rows}
    if done:
        tell(f"{len(done)} of {len(wanted)} runs are in {args.out} already")
    variables = environment(args.threads, args.device == "cpu")
    try:
        with Bar(len(wanted) - len(done)) as bar:
            for round_, instance, tool in plan(instances, tools, args.rounds):
                if (instance.onnx, instance.vnnlib, tool.name, round_ + 1, instance.timeout) in done:
                    continue
                row = measure(tool, instance, round_, args.grace, variables)
                log.append(row)
                rows.append(row)
                bar.step(
                    f"{row.tool}: {row.verdict} {row.seconds:.2f} s {row.onnx} {row.vnnlib} {row.witness} {row.reason}"
                )
    except KeyboardInterrupt:
        return rows, True
    return rows, False


def _instances(args: argparse.Namespace) -> list[Instance]:
    """The instances asked for, with the time-out and the truth that count, and absolute paths."""
    truth = read_truth(args.truth) if args.truth is not None else {}
    chosen = {}
    for instance in read_instances(args.list):
        if args.filter in f"{instance.onnx} {instance.vnnlib}":
            chosen[instance.key] = replace(
                instance,
                folder=instance.folder.resolve(),
                timeout=instance.timeout if args.timeout is None else args.timeout,
                expected=truth.get(instance.key, instance.expected),
            )
    if not chosen:
        raise InputError(f"no instance matches `{args.filter}`", file=args.list, hint="check --filter")
    return list(chosen.values())


def _named(pairs: Sequence[str], option: str) -> dict[str, str]:
    named = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    wrong = next((pair for pair in pairs if "=" not in pair), None)
    if wrong is not None:
        raise InputError(f"`{wrong}` names no tool", place=option, hint="write NAME=VALUE")
    return named


if __name__ == "__main__":
    sys.exit(main())
