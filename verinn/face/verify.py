"""``verinn verify``: from file names to one verdict. Every way out of a run is in this file."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from verinn.errors import InputError
from verinn.face.answer import Answer, Places, private_stdout, tell, tell_error
from verinn.face.clock import deadlines, process_start
from verinn.face.display import Display
from verinn.options import ENGINES, REFINEMENTS, Options
from verinn.result import Result, Verdict

if TYPE_CHECKING:
    from verinn.ir.query import Query

BAD_INPUT = 2


@dataclass(frozen=True)
class Request:
    """A run as asked for on the command line, checked as far as that goes without reading a file."""

    models: str | dict[str, str]
    property: str
    timeout: float | None
    device: str
    seed: int
    places: Places
    engine: str = "auto"
    refine: str = "none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="MODEL PROPERTY; with --network the query only")
    parser.add_argument("--network", action="append", default=[], metavar="NAME=PATH", help="the model of a network")
    parser.add_argument("--timeout", type=seconds, metavar="S", help="wall-clock seconds from process start")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--engine", choices=ENGINES, default="auto", help="what decides; the plan chooses by itself")
    parser.add_argument(
        "--refine", choices=REFINEMENTS, default="none",
        help="move the ends of single neurons by linear programmes before phases are split",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write verdict, reason, witness and statistics as JSON")
    parser.add_argument("--results", metavar="FILE", help="write what is printed to a file, too")
    parser.add_argument(
        "--serialise-assignments", "--assignments", metavar="DIR", dest="assignments",
        help="write each variable of a witness as DIR/NAME.pb (TensorProto)",
    )  # fmt: skip
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of the attack's random numbers")
    parser.add_argument("-v", "--verbose", action="store_true", help="plan and statistics on stderr")


def seconds(text: str) -> float:
    """A time limit: a finite number of seconds above zero."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"`{text}` is not a positive number of seconds")
    return value


def natural(text: str) -> int:
    """A seed: an integer from 0 to 2**63 - 1."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"`{text[:40]}` is not an integer from 0 to 2**63 - 1")
    return value


def request_from(args: argparse.Namespace) -> Request:
    """Raises InputError for files and networks that don't add up."""
    models, prop = _named(args) if args.network else _positional(args)
    places = Places(
        results=args.results,
        json=args.json,
        assignments=args.assignments,
        standard=bool(args.network),
        verbose=args.verbose,
    )
    return Request(models, prop, args.timeout, args.device, args.seed, places, args.engine, args.refine)


def _named(args: argparse.Namespace) -> tuple[dict[str, str], str]:
    if len(args.files) != 1:
        hint = "verinn verify QUERY --network NAME=PATH"
        raise InputError("with --network only the query is named besides", hint=hint)
    models: dict[str, str] = {}
    for item in args.network:
        name, sign, path = item.partition("=")
        if not (name and sign and path):
            raise InputError(f"--network {item}: is not NAME=PATH", hint="write --network NAME=model.onnx")
        if name in models:
            raise InputError(f"--network {name}: given twice", hint="name each network once")
        models[name] = path
    return models, args.files[0]


def _positional(args: argparse.Namespace) -> tuple[str | dict[str, str], str]:
    from verinn.io.instances import parse_models

    if len(args.files) != 2:
        problem = "names one file only" if len(args.files) == 1 else f"names {len(args.files)} files"
        raise InputError(f"verify: {problem}", hint="verinn verify MODEL PROPERTY, or QUERY --network NAME=PATH")
    model, prop = args.files
    if ".vnnlib" in os.path.basename(model) and ".onnx" in os.path.basename(prop):
        raise InputError("is a property, a model is expected first", file=model, hint="swap the two files")
    return parse_models(model), prop


def run(args: argparse.Namespace, process: bool) -> int:
    """Verify, answer, return the exit code. ``process``: this is the process's one job, so the watch
    (time limit, Ctrl-C, SIGTERM) may end it, and stdout is kept clean of anything else."""
    start = process_start() if process else time.monotonic()
    request = request_from(args)
    limits = deadlines(request.timeout, start)
    answer = Answer(request.places, start, private_stdout() if process else _print)
    display = Display(start)
    if process:
        _start_watch(limits.watch if limits else None, answer, display)
    try:
        query, result = _decide(request, limits.engine if limits else None, display)
    except InputError as error:
        display.stop()
        if not answer.claim():
            _wait_for_exit()
        tell_error(error)
        return BAD_INPUT
    display.stop()
    return _deliver(answer, result, query)


def _deliver(answer: Answer, result: Result, query: Query | None) -> int:
    if not answer.claim():
        _wait_for_exit()
    try:
        answer.give(result, query)
    except InputError as error:
        tell_error(error)
        return BAD_INPUT
    return 0


def _wait_for_exit() -> None:
    """The watching thread is giving its answer and will end the process."""
    import threading

    threading.Event().wait()


def _decide(request: Request, deadline: float | None, display: Display) -> tuple[Query | None, Result]:
    """The result, whatever happens. Only InputError gets out: a defect of ours is an `unknown`."""
    query = None
    try:
        query, models = _load(request)
        from verinn.api import verify

        options = Options(
            deadline=deadline, device=request.device, seed=request.seed, engine=request.engine, refine=request.refine
        )
        result = verify(models, query, options, display.show)
        for warning in result.warnings:
            if warning not in query.warnings:
                tell(f"warning: {warning}")
        return query, result
    except InputError:
        raise
    except MemoryError:
        return query, Result(Verdict.UNKNOWN, reason="internal error: out of memory")
    except BaseException as error:
        if request.places.verbose:
            traceback.print_exc(file=sys.stderr)
        name = type(error).__name__
        return query, Result(Verdict.UNKNOWN, reason=f"internal error: {name}: {str(error)[:300]}")


def _load(request: Request) -> tuple[Query, dict[str, str] | str]:
    """The query, and a model for each of its networks. Everything cheap is checked before the engine starts."""
    from verinn.io.match import assign_models
    from verinn.io.places import check_file, check_folder
    from verinn.io.vnnlib import read_query

    for path in (request.places.results, request.places.json):
        if path is not None:
            check_file(path)
    if request.places.assignments is not None:
        check_folder(request.places.assignments)
    query = read_query(request.property)
    for warning in query.warnings:
        tell(f"warning: {warning}")
    assign_models(query, request.models)
    if isinstance(request.models, dict) and len(request.models) == 1 and query.version.startswith("1"):
        return query, next(iter(request.models.values()))
    return query, request.models


def _start_watch(deadline: float | None, answer: Answer, display: Display) -> None:
    from verinn.face.watch import watch

    def end(result: Result) -> None:
        if not answer.claim():
            return  # the answer is being given right now
        display.wipe()
        try:
            answer.give(result, None)
        except InputError as error:
            tell_error(error)
            os._exit(BAD_INPUT)
        except BaseException as error:
            tell(f"internal error: {error}")
        os._exit(0)

    def late() -> None:
        end(Result(Verdict.TIMEOUT, reason="the time limit was reached"))

    def interrupted(name: str) -> None:
        end(Result(Verdict.UNKNOWN, reason=f"interrupted ({name})"))

    watch(deadline, late, interrupted)


def _print(text: str) -> None:
    print(text, end="", flush=True)
