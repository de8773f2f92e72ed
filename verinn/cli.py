"""The command line: which command, with which arguments. The commands live in ``verinn.face``."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

USAGE = """\
usage: verinn COMMAND ...

commands:
  verify MODEL PROPERTY [options]               decide a property: sat, unsat, unknown or timeout
  verify QUERY --network NAME=MODEL [options]   the same, in the VNN-LIB standard's form
  info MODEL [PROPERTY]                         what a model and a property hold
  region KIND MODEL [PROPERTY] [options]        sets of inputs on a grid: every point, or every real input
  bench FOLDER_OR_CSV [options]                 run a list of instances
  audit run [SUITE] [options]                   run instances of known truth against any verifier
  audit replay SUITE ID [options]               show one of them, its truth, and what a verifier says
  audit mutants [SUITE] [options]               inject faults into verinn, and see which family catches them
  audit build --seed S --out DIR                make a soundness suite: networks whose exact truth is known
  supports --CAPABILITY                         the VNN-LIB standard's questions (also: capabilities)

options:
  --name, --version, --help                     `verinn COMMAND --help` tells a command's options
"""
COMMANDS = {
    "verify": "verinn.face.verify",
    "info": "verinn.face.info",
    "region": "verinn.face.region",
    "bench": "verinn.bench",
    "audit run": "verinn.face.audit_run",
    "audit mutants": "verinn.face.audit_mutants",
    "audit replay": "verinn.face.audit_replay",
    "audit build": "verinn.face.audit_build",
    "supports": "verinn.face.supports",
    "capabilities": "verinn.face.supports",
}
BAD_INPUT = 2


class Parser(argparse.ArgumentParser):
    """An argument parser that tells an error in one line."""

    def error(self, message: str) -> NoReturn:
        from verinn.face.answer import tell

        tell(f"error: {message}; `{self.prog} --help` tells the options")
        raise SystemExit(BAD_INPUT)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 for every verdict, 2 for bad input.

    Without ``argv`` this is the process's entry: the command then owns stdout, the signals and the
    process's end, which skips the slow tear-down of native libraries.
    """
    process = argv is None
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv), process)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else BAD_INPUT
    except BrokenPipeError:
        code = 0
    if process:
        _leave(code)
    return code


def _run(arguments: list[str], process: bool) -> int:
    from verinn.errors import InputError
    from verinn.face.answer import tell, tell_error

    if not arguments or arguments[0] in ("-h", "--help", "--name", "--version"):
        return _about(arguments)
    name, rest = _named(arguments)
    if name not in COMMANDS:
        tell(f"error: unknown command `{name}`; commands: {', '.join(COMMANDS)}")
        return BAD_INPUT
    command = importlib.import_module(COMMANDS[name])
    parser = Parser(prog=f"verinn {name}", allow_abbrev=False)
    command.add_arguments(parser)
    try:
        return int(command.run(parser.parse_intermixed_args(rest), process))
    except InputError as error:
        tell_error(error)
        return BAD_INPUT
    except KeyboardInterrupt:
        # Before the watch began, or in a command that has none.
        if name == "verify":
            print("unknown", flush=True)
            return 0
        return 130


def _named(arguments: list[str]) -> tuple[str, list[str]]:
    """The command, which may have two words, and what follows it."""
    words = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    return " ".join(arguments[:words]), arguments[words:]


def _about(arguments: list[str]) -> int:
    if not arguments:
        print(USAGE, end="", file=sys.stderr)
        return BAD_INPUT
    if arguments[0] == "--name":
        print("verinn")
    elif arguments[0] == "--version":
        from verinn import __version__

        print(__version__)
    else:
        print(USAGE, end="")
    return 0


def _leave(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
