"""The tools: how each is called, where its verdict stands, and whether it is there at all.

A tool is a command line with places to fill in; the built-in ones differ from those of the user only in
that they name a Python package, whose interpreter, version and folder are asked for first.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import string
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from verinn.errors import InputError
from verinn.io.files import read_bytes
from verinn.io.instances import Instance, parse_models

_PLACES = ("onnx", "vnnlib", "timeout", "seconds", "result")
_NETWORKS = "{networks}"
_DECLARED = re.compile(rb"\(\s*declare-network\s+([A-Za-z_][\w-]*)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_PROBE = (
    "import importlib.metadata as m, sys; d = m.distribution(sys.argv[1]); print(d.version); print(d.locate_file(''))"
)


@dataclass(frozen=True)
class Tool:
    """A verifier as a command line.

    ``words`` may hold {onnx}, {vnnlib}, {timeout} (seconds), {seconds} (the same, rounded up) and {result} (a
    file that the tool writes its answer to); those of a package also {python} and {site} (where it is
    installed). A word {networks} becomes `--network NAME=MODEL` for each network of the query. ``before``: a
    command that is run before, untimed. ``pattern`` finds the verdict, in its first group if it has any; None:
    the usual words.
    ``exits``: exit codes that an answer may come with; None: any. ``scratch``: run in a folder that is thrown
    away, since the tool leaves files behind.
    """

    name: str
    words: tuple[str, ...]
    before: tuple[str, ...] = ()
    package: str = ""
    version: str = ""
    pattern: re.Pattern[str] | None = None
    exits: frozenset[int] | None = None
    scratch: bool = False
    fixed: Mapping[str, str] = field(default_factory=dict)

    @property
    def writes(self) -> bool:
        """Whether the answer is in a file rather than on stdout."""
        return any("{result}" in word for word in self.words)

    def command(self, instance: Instance, result: Path) -> list[str]:
        """The command line for one instance, whose folder is absolute. Raises InputError where the tool takes
        one network only."""
        several = not isinstance(parse_models(instance.onnx), str)
        if several and self.package not in ("", "verinn") and _NETWORKS not in self.words:
            raise InputError(f"{self.name} takes one network")
        return self._filled(self.words, instance, result)

    def preparation(self, instance: Instance, result: Path) -> list[str]:
        """The command to run before, or nothing."""
        return self._filled(self.before, instance, result)

    def _filled(self, words: Sequence[str], instance: Instance, result: Path) -> list[str]:
        places = {
            "onnx": instance.model_argument,
            "vnnlib": str(instance.property_path),
            "timeout": f"{instance.timeout:g}",
            "seconds": str(math.ceil(instance.timeout)),
            "result": str(result),
            **self.fixed,
        }
        filled: list[str] = []
        for word in words:
            filled.extend(_networks(instance) if word == _NETWORKS else [word.format_map(places)])
        return filled


def _networks(instance: Instance) -> list[str]:
    """`--network NAME=MODEL` for each network; the property names a single one, or version 1.0 does not."""
    models = parse_models(instance.model_argument)
    if isinstance(models, str):
        declared = _DECLARED.search(read_bytes(str(instance.property_path)))
        models = {declared.group(1).decode() if declared else "N": models}
    return [word for name, path in models.items() for word in ("--network", f"{name}={path}")]


def standard(name: str, line: str) -> Tool:
    """A tool with the VNN-LIB standard's command line: ``PROGRAM verify QUERY --network NAME=MODEL --timeout S``."""
    words = _split(line, "--standard")
    return Tool(name, (*words, "verify", "{vnnlib}", _NETWORKS, "--timeout", "{timeout}"), scratch=True)


def scripts(name: str, folder: str) -> Tool:
    """A tool by the competition's scripts (VNN-COMP): ``prepare_instance.sh`` if it is there, ``run_instance.sh``."""
    run, prepare = (Path(folder).resolve() / f"{part}_instance.sh" for part in ("run", "prepare"))
    if not run.is_file():
        raise InputError("holds no run_instance.sh", file=folder, hint="name the folder of the competition's scripts")
    rest = ("v1", "audit", "{onnx}", "{vnnlib}")
    before = ("bash", str(prepare), *rest) if prepare.is_file() else ()
    return Tool(name, ("bash", str(run), *rest, "{result}", "{timeout}"), before=before, scratch=True)


_CLEAN = frozenset({0})
#: the verifiers that are known by name; each is a package on PyPI
KNOWN = {
    tool.name: tool
    for tool in (
        Tool(
            "verinn",
            (
                "{python}",
                "-m",
                "verinn",
                "verify",
                "{onnx}",
                "{vnnlib}",
                "--timeout",
                "{timeout}",
                "--results",
                "{result}",
            ),
            package="verinn",
            exits=_CLEAN,
            scratch=True,
        ),
        Tool(  # its entry point is a script inside the package; without a GPU it takes the CPU by itself
            "neuralsat",
            (
                *("{python}", "{site}/src/main.py", "--net", "{onnx}", "--spec", "{vnnlib}", "--timeout", "{timeout}"),
                *("--result_file", "{result}", "--export_cex", "--verbosity", "0"),
            ),
            package="neuralsat",
            exits=_CLEAN,
            scratch=True,
        ),
        Tool(  # answers on stdout; its time-out is a whole number, and 0 would mean none
            "maraboupy",
            (
                *("{python}", "-m", "maraboupy", "{onnx}", "{vnnlib}", "--timeout", "{seconds}", "--verbosity", "0"),
                "--export-assignment",  # else no counterexample is printed
            ),
            package="maraboupy",
            pattern=re.compile(r"(?m)^(sat|unsat|Timeout|UNKNOWN)\b"),
            scratch=True,
        ),
        Tool(  # leaves with exit code 1 after `sat`
            "vibecheck-nn",
            (
                *("{python}", "-m", "vibecheck", "verify", "{vnnlib}", "{networks}"),
                *("--timeout", "{timeout}", "--results-file", "{result}"),
            ),
            package="vibecheck-nn",
            scratch=True,
        ),
    )
}


def choose(
    wanted: Sequence[str], pythons: Mapping[str, str], patterns: Mapping[str, str]
) -> tuple[list[Tool], list[str]]:
    """The tools asked for (all known ones if none is), and a line for each one that is not there.

    Raises InputError for what is no tool at all, or when not a single one is there.
    """
    tools = [_tool(text) for text in wanted] or list(KNOWN.values())
    names = [tool.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"`{twice}` stands there twice", place="--tool", hint="write OTHER_NAME=COMMAND")
    for option, given in (("--python", pythons), ("--verdict", patterns)):
        stranger = next((name for name in given if name not in names), None)
        if stranger is not None:
            raise InputError(f"`{stranger}` is none of the tools: {', '.join(names)}", place=option)
    found, missing = [], []
    for tool in tools:
        if tool.name in patterns:
            tool = replace(tool, pattern=pattern_of(patterns[tool.name]))
        ready = located(tool, pythons.get(tool.name, sys.executable))
        if isinstance(ready, Tool):
            found.append(ready)
        else:
            missing.append(f"{tool.name} is left out: {ready}")
    if not found:
        raise InputError("; ".join(missing), place="--tool", hint="name at least one that is installed")
    return found, missing


def _tool(text: str) -> Tool:
    """``NAME`` of a known tool, or ``NAME=COMMAND LINE``."""
    name, equals, line = text.partition("=")
    if not equals:
        if name not in KNOWN:
            raise InputError(
                f"`{name}` is not known", place="--tool", hint=f"write NAME=COMMAND, or one of {', '.join(KNOWN)}"
            )
        return KNOWN[name]
    if not _NAME.fullmatch(name):
        raise InputError(f"`{name}` is no name for a tool", place="--tool", hint="write NAME=COMMAND")
    return command_tool(name, line, f"--tool {name}")


def command_tool(name: str, line: str, place: str) -> Tool:
    """A tool from a command line with places. Raises InputError where it lacks the model or the property."""
    words = _split(line, place)
    others = [word for word in words if word != _NETWORKS]
    try:
        used = {part for word in others for _, part, _, _ in string.Formatter().parse(word) if part is not None}
    except ValueError as error:
        raise InputError(f"`{line}` can't be read ({error})", place=place) from None
    if not used <= set(_PLACES) or "vnnlib" not in used or ("onnx" not in used and len(others) == len(words)):
        places = " ".join(f"{{{each}}}" for each in (*_PLACES, "networks"))
        raise InputError(
            f"`{line}` is not a command with {{onnx}} and {{vnnlib}}", place=place, hint=f"places: {places}"
        )
    return Tool(name, words)


def _split(line: str, place: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(line))
    except ValueError as error:
        raise InputError(f"`{line}` can't be read ({error})", place=place) from None
    if not words:
        raise InputError("an empty command", place=place, hint="name a program")
    return words


def pattern_of(text: str) -> re.Pattern[str]:
    """A user's regular expression for the verdict."""
    try:
        return re.compile(text, re.MULTILINE)
    except re.error as error:
        raise InputError(f"`{text}` is no regular expression ({error})", place="--verdict") from None


def located(tool: Tool, python: str = sys.executable) -> Tool | str:
    """The tool ready to be run: with its program, or its package's interpreter; or why it can't be run."""
    return _probe(tool, python) if tool.package else _on_path(tool)


def _on_path(tool: Tool) -> Tool | str:
    """A command as the user would start it: in the current folder, found on the PATH."""
    program = shutil.which(tool.words[0])
    if program is None:
        return f"there is no program `{tool.words[0]}`"
    return replace(tool, words=(os.path.abspath(program), *tool.words[1:]))


def _probe(tool: Tool, python: str) -> Tool | str:
    """A package's tool with its interpreter and version, or why it can't be run."""
    program = shutil.which(python)
    if program is None:
        return f"there is no interpreter `{python}`"
    program = os.path.abspath(program)
    try:
        asked = subprocess.run([program, "-c", _PROBE, tool.package], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"`{python}` does not answer ({type(error).__name__})"
    lines = asked.stdout.split("\n")
    if asked.returncode != 0 or len(lines) < 2:
        return (
            f"the package {tool.package} is not installed for {python}; "
            f"install it, or name another interpreter: --python {tool.name}=PATH"
        )
    return replace(tool, version=lines[0], fixed={"python": program, "site": lines[1]})
