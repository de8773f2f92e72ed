"""Which tool an audit is about: the options that name one, read from a command line."""

from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import replace

from verinn.audit.tools import KNOWN, Tool, command_tool, located, pattern_of, scripts, standard
from verinn.errors import InputError


def add_tool(parser: argparse.ArgumentParser) -> None:
    """The options that name a tool; one of the first four."""
    parser.add_argument("--tool", choices=tuple(KNOWN), metavar="NAME", help=f"one of {', '.join(KNOWN)}")
    parser.add_argument(
        "--command",
        metavar="TEMPLATE",
        help="a command line with {onnx} {vnnlib} {timeout} {seconds} {result}, run without a shell",
    )
    parser.add_argument(
        "--standard", metavar="PROGRAM", help="VNN-LIB's: PROGRAM verify QUERY --network NAME=MODEL --timeout S"
    )
    parser.add_argument("--scripts", metavar="FOLDER", help="the competition's (VNN-COMP): FOLDER/run_instance.sh")
    parser.add_argument("--name", metavar="NAME", help="how the tool is called in the report")
    parser.add_argument("--python", metavar="PATH", help="the interpreter that has a known tool")
    parser.add_argument("--verdict", metavar="REGEX", help="finds the verdict; its last match counts")


def tool_of(args: argparse.Namespace, default: str | None) -> Tool:
    """The tool, ready to be run in any folder. Raises InputError when none is named, two are, or it isn't there."""
    given = [name for name in ("tool", "command", "standard", "scripts") if getattr(args, name)]
    if not given and default is None:
        raise InputError("names no tool", place="--tool", hint="name one of --tool, --command, --standard, --scripts")
    if len(given) > 1:
        raise InputError(f"--{given[0]} and --{given[1]} name two tools", hint="name one")
    tool = _named(args, given[0] if given else "tool", default)
    if args.verdict:
        tool = replace(tool, pattern=pattern_of(args.verdict))
    if args.python and not tool.package:
        raise InputError("is for the tools known by name", place="--python", hint="leave it out")
    ready = located(tool, args.python) if args.python else located(tool)
    if isinstance(ready, str):
        raise InputError(f"{tool.name}: {ready}")
    words = ready.words if ready.package else tuple(map(_absolute, ready.words))
    return replace(ready, words=words, scratch=True)


def _named(args: argparse.Namespace, kind: str, default: str | None) -> Tool:
    if kind == "command":
        return command_tool(args.name or _first(args.command), args.command, "--command")
    if kind == "standard":
        return standard(args.name or _first(args.standard), args.standard)
    if kind == "scripts":
        return scripts(args.name or os.path.basename(os.path.abspath(args.scripts)), args.scripts)
    tool = KNOWN[str(args.tool or default)]
    return replace(tool, name=args.name) if args.name else tool


def _first(line: str) -> str:
    words = line.split()
    return os.path.basename(words[0]) if words else "command"


def _absolute(word: str) -> str:
    """Tools run in a folder of their own: files named relative to the current one are named in full."""
    return os.path.abspath(word) if "{" not in word and os.path.exists(word) else word


def options_of(args: argparse.Namespace, tool: Tool) -> str:
    """The options that name the tool again, as text for a command line; without an interpreter's place."""
    parts = []
    for name in ("tool", "command", "standard", "scripts", "name", "verdict"):
        if getattr(args, name):
            parts += [f"--{name}", shlex.quote(getattr(args, name))]
    return " ".join(parts) or f"--tool {tool.name}"
