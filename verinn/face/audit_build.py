"""``verinn audit build``: a fresh soundness suite that no tool has seen."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, required=True, metavar="S", help="the same seed gives the same suite")
    parser.add_argument("--out", required=True, metavar="DIR", help="a folder that is empty or doesn't exist")
    parser.add_argument("--size", choices=("quick", "committed", "full"), default="committed")


def run(args: argparse.Namespace, process: bool) -> int:
    from verinn.audit import build

    build(args.seed, args.out, args.size)
    return 0
