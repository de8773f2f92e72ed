"""``python -m benchmarks.performance``: bounds and domains a second on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from verinn.bench import positive
from verinn.cli import BAD_INPUT, Parser
from verinn.errors import InputError
from verinn.face.answer import tell, tell_error
from verinn.face.verify import seconds

if TYPE_CHECKING:  # `--help` waits for no PyTorch
    from benchmarks.performance.rows import Row
    from benchmarks.performance.timing import Settings

GROUPS = ("layers", "networks", "climbing", "search")
DTYPES = ("float32", "float64")
INTERRUPTED = 130


def arguments() -> Parser:
    parser = Parser(prog="benchmarks.performance", allow_abbrev=False, description=__doc__)
    parser.add_argument("--group", nargs="+", choices=GROUPS, default=GROUPS, help="what to measure")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES, help="of the bounds")
    parser.add_argument(
        "--batch", nargs="+", type=positive, default=(1, 16, 128, 512), metavar="N", help="domains, rows"
    )
    parser.add_argument("--repeats", type=positive, default=5, metavar="N", help="the median of so many counts")
    parser.add_argument("--warm-up", type=positive, default=1, metavar="N", help="calls before that")
    parser.add_argument("--threads", type=positive, metavar="N", help="of PyTorch")
    parser.add_argument("--seconds", type=seconds, default=10.0, metavar="S", help="for each search")
    parser.add_argument("--patience", type=seconds, default=2.0, metavar="S", help="for each measurement of bounds")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only cases whose names hold TEXT")
    parser.add_argument("--out", metavar="FILE", help="write a csv, or JSON where the name ends so")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0; 2 for bad input; 130 when interrupted."""
    try:
        return run(arguments().parse_args(argv))
    except InputError as error:
        tell_error(error)
        return BAD_INPUT


def run(args: argparse.Namespace) -> int:
    import torch

    from benchmarks.performance.rows import machine, save
    from benchmarks.performance.tables import show
    from benchmarks.performance.timing import Settings

    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device is available", place="--device cuda", hint="use --device cpu")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    settings = Settings(
        device=args.device, dtypes=tuple(args.dtype), batches=tuple(sorted(set(args.batch))), repeats=args.repeats,
        warm_up=args.warm_up, patience=args.patience, search_seconds=args.seconds, filter=args.filter,
    )  # fmt: skip
    facts = machine(args.device)
    rows: list[Row] = []
    if args.out is not None:
        save(args.out, rows, facts)  # a place that can't be written to is told now, not after an hour
    code = 0
    try:
        for group in dict.fromkeys(args.group):
            for row in _group(group)(settings):
                rows.append(row)
                tell(_line(row))
    except KeyboardInterrupt:
        code = INTERRUPTED
    if not rows and not code:
        raise InputError(f"no case matches `{args.filter}`", place="--filter", hint="try a part of a name")
    if args.out is not None:
        save(args.out, rows, facts)
    show(rows, facts)
    return code


def _group(name: str) -> Callable[[Settings], Iterator[Row]]:
    """What a group measures: a function from Settings to rows.

    A new layer of benchmarks is a module beside these with such a function, an entry here, and its name in GROUPS.
    """
    from benchmarks.performance import bounds, climbing, search

    return {
        "layers": bounds.layers,
        "networks": bounds.networks,
        "climbing": climbing.climbing,
        "search": search.search,
    }[name]


def _line(row: Row) -> str:
    size = f"{row.domains}x{row.rows}" if row.rows else str(row.domains)
    return f"{row.group}: {row.case}, {row.operation}, {row.dtype}, {size}: {row.seconds:.4g} s {row.note}"


if __name__ == "__main__":
    sys.exit(main())
