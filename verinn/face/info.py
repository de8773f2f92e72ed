"""``verinn info``: what a model and a property hold, as a table."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from verinn.face.answer import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("property", nargs="?", metavar="PROPERTY")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def run(args: argparse.Namespace, process: bool) -> int:
    from verinn.api import describe
    from verinn.io.instances import parse_models
    from verinn.options import Options

    models = parse_models(args.model)
    for name, path in {"": models}.items() if isinstance(models, str) else models.items():
        description = describe(path, args.property, Options(device=args.device))
        for warning in getattr(description, "warnings", ()):
            tell(f"warning: {warning}")
        _show(([("network", name)] if name else []) + rows(description, args.property is not None))
    return 0


def rows(description: Any, with_property: bool) -> list[tuple[str, str]]:
    """What is known, as (title, text); what the description lacks is left out."""
    table = [
        ("inputs", _tensors(getattr(description, "inputs", ()))),
        ("outputs", _tensors(getattr(description, "outputs", ()))),
        ("operators", _counts(getattr(description, "operators", {}))),
        ("after reading", _counts(getattr(description, "core", {}))),
        ("parameters", _number(getattr(description, "parameters", None))),
        ("neurons", _number(getattr(description, "neurons", None))),
    ]
    if with_property:
        table += [
            ("unstable neurons", _number(getattr(description, "unstable", None))),
            ("cases", _number(getattr(description, "cases", None))),
            ("conjunctions", _number(getattr(description, "conjunctions", None))),
        ]
        plan = dict(getattr(description, "plan", {}))
        table += [(key, _counts(value) if isinstance(value, Mapping) else str(value)) for key, value in plan.items()]
    return [(title, text) for title, text in table if text]


def _tensors(tensors: Iterable[Any]) -> str:
    return "\n".join(f"{name} {dtype} {list(shape)}" for name, shape, dtype in tensors)


def _counts(counts: Mapping[str, Any]) -> str:
    """Names and numbers on one line."""
    return ", ".join(f"{name} {value}" for name, value in counts.items())


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _show(table: list[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    view = Table(show_header=False, box=None, pad_edge=False)
    view.add_column(style="bold", no_wrap=True)
    view.add_column(overflow="fold")
    for title, text in table:
        view.add_row(title, Text(text))
    Console().print(view)
