"""``verinn audit build``: a fresh soundness suite that no tool has seen."""

from __future__ import annotations

import argparse
from pathlib import Path

from verinn.errors import InputError
from verinn.face.answer import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, required=True, metavar="S", help="the same seed gives the same suite")
    parser.add_argument("--out", required=True, metavar="DIR", help="a folder that is empty or doesn't exist")
    parser.add_argument("--size", choices=("quick", "committed", "full"), default="committed")
    parser.add_argument(
        "--recorded", metavar="DIR", help="a suite's recorded/: trained weights and attacks that are not run again"
    )
    parser.add_argument("--no-attacks", action="store_true", help="don't attack what is planted: minutes less")


def run(args: argparse.Namespace, process: bool) -> int:
    """Exit code 0. Raises InputError for a bad place."""
    from verinn.audit import build

    if args.recorded is not None and not Path(args.recorded).is_dir():
        raise InputError("is no folder", file=args.recorded, hint="name a suite's recorded/")
    build(args.seed, args.out, args.size, args.recorded, not args.no_attacks, tell)
    return 0
