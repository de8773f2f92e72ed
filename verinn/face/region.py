"""``verinn region``: sets of inputs on a grid, at a layer, under manipulations of an image; distances."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from verinn.errors import InputError
from verinn.face.answer import plain, private_stdout, tell, tell_error
from verinn.face.clock import deadlines, process_start
from verinn.face.verify import natural, seconds

if TYPE_CHECKING:
    from pathlib import Path

    from verinn.region.question import Question, Scale
    from verinn.region.verdict import Report

BAD_INPUT = 2
GRACE = 5.0  # seconds that an interrupted search has to hand back what it covered
KINDS = ("grid", "layer", "transform", "distance")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=f"what is asked: {', '.join(KINDS)}")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("property", nargs="?", metavar="PROPERTY", help="a VNN-LIB file instead of --image")
    parser.add_argument("--image", metavar="FILE", help="an image: .npy (bytes are divided by 255) or .png")
    parser.add_argument("--index", type=natural, metavar="N", help="which image of an array of images")
    parser.add_argument("--label", type=natural, metavar="N", help="its class (else the network's own answer)")
    parser.add_argument("--radius", type=fraction, metavar="R", help="how far pixels may move, e.g. 2/255 (else fully)")
    parser.add_argument("--step", type=fractions, default=(Fraction(1, 255),), metavar="T[,T…]",
                        help="the grid's step in pixels (1/255); one, or one for each channel")  # fmt: skip
    parser.add_argument("--levels", type=levels, default="auto", metavar="N",
                        help="pixels are 0 to N−1 steps; `none`: no ends, the grid starts at the image")  # fmt: skip
    parser.add_argument(
        "--mean", type=fractions, default=(Fraction(0),), metavar="M[,M…]", help="input = (pixel − mean) / std"
    )
    parser.add_argument("--std", type=fractions, default=(Fraction(1),), metavar="S[,S…]")
    parser.add_argument("--dims", type=numbers, metavar="I,J…", help="only these inputs move")
    parser.add_argument("--ties", choices=("violate", "allow", "first"), default="violate",
                        help="equal outputs: a violation, none, or the class with the lower number wins")  # fmt: skip
    parser.add_argument(
        "--cells", action="store_true", help="prove the cells between grid points, too: every real input"
    )
    layer = parser.add_argument_group("verinn region layer")
    layer.add_argument("--layers", type=numbers, metavar="A-B", help="layers to search (all; 0 is the input)")
    layer.add_argument("--size", type=positive, default=5, metavar="D", help="dimensions of a feature (5)")
    layer.add_argument("--features", type=positive, default=1, metavar="F", help="how many features (1)")
    layer.add_argument("--number", type=positive, default=2, metavar="M", help="spans to the end of a dimension (2)")
    layer.add_argument("--by", choices=("gradient", "activation"), default="gradient", help="how dimensions are chosen")
    layer.add_argument("--paths", choices=("all", "single", "multi"), default="all",
                       help="all points of all features, or feature by feature: in one order, or all")  # fmt: skip
    layer.add_argument(
        "--back", type=seconds, default=10.0, metavar="S", help="seconds to map one activation back (10)"
    )
    family = parser.add_argument_group("verinn region transform")
    family.add_argument("--manipulations", metavar="FILE", help="a .toml or .json file that lists manipulations")
    family.add_argument("--manipulate", action="append", default=[], metavar="KIND:NAME=LOW..HIGH[/STEP],…",
                        help="a manipulation, after those given before; e.g. rotation:degrees=-3..3")  # fmt: skip
    family.add_argument("--save-model", metavar="FILE", help="write the model with the manipulations in front of it")
    distance = parser.add_argument_group("verinn region distance")
    distance.add_argument("--norm", choices=("0", "1", "2", "inf"), default="inf", help="of the change (inf)")
    distance.add_argument("--on-grid", action="store_true", help="only grid points count as violations")
    parser.add_argument("--state", metavar="FILE", help="keep the search in a file, and go on from it")
    parser.add_argument("--pictures", metavar="DIR", help="original, adversarial and difference as PNG, and a plot")
    parser.add_argument("--timeout", type=seconds, metavar="S", help="wall-clock seconds from process start")
    parser.add_argument("--json", metavar="FILE", help="verdict, counts, assumptions, witness as JSON")
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of the attack's random numbers")
    parser.add_argument("-v", "--verbose", action="store_true", help="progress and statistics on stderr")


def fraction(text: str) -> Fraction:
    """A rational: 2/255, 0.03, 1e-3."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"`{text[:40]}` is not a number") from None


def positive(text: str) -> int:
    value = natural(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is too few")
    return value


def fractions(text: str) -> tuple[Fraction, ...]:
    return tuple(fraction(part) for part in text.split(","))


def numbers(text: str) -> tuple[int, ...]:
    """Input numbers: 3,5,10-20."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        a = natural(first)
        b = natural(last) if dash else a
        if not a <= b < a + (1 << 20):
            raise argparse.ArgumentTypeError(f"`{part[:40]}` is not a range of inputs")
        found.extend(range(a, b + 1))
    return tuple(dict.fromkeys(found))


def levels(text: str) -> str | int | None:
    if text in ("none", "auto"):
        return None if text == "none" else text
    return natural(text)


@dataclass(eq=False)
class Stage:
    """The one answer of a run, and the flag that asks the search to stop."""

    write: Callable[[str], None]
    stop: threading.Event
    done: threading.Event
    lock: threading.Lock
    claimed: bool = False
    latest: str = ""  # what the search last told of itself

    def told(self, text: str) -> None:
        self.latest = text

    def claim(self) -> bool:
        with self.lock:
            first, self.claimed = not self.claimed, True
            return first


def run(args: argparse.Namespace, process: bool) -> int:
    """Decide and answer: the verdict on the first line of stdout, its evidence on the next ones. Exit code 0."""
    start = process_start() if process else time.monotonic()
    limits = deadlines(args.timeout, start)
    stage = Stage(private_stdout() if process else _print, threading.Event(), threading.Event(), threading.Lock())
    _check_places(args)
    if process:
        _start_watch(limits.watch if limits else None, stage)
    try:
        report, pictures = _decided(args, limits.engine if limits else None, stage)
    except InputError as error:
        if not stage.claim():
            threading.Event().wait()
        tell_error(error)
        return BAD_INPUT
    if not stage.claim():
        threading.Event().wait()
    stage.write("\n".join(report.lines()) + "\n")
    stage.done.set()
    for warning in report.warnings:
        tell(f"warning: {warning}")
    if args.verbose:
        from verinn.region.verdict import written

        for key, value in report.statistics.items():
            if key != "history":
                tell(f"statistics: {key} = {written(value)}")
    if args.json is not None:
        from verinn.io.places import write_text

        record = {**report.record(), "seconds": round(time.monotonic() - start, 3)}
        write_text(args.json, json.dumps(plain(record), indent=2, allow_nan=False) + "\n")
    pictures()
    return 0


def _check_places(args: argparse.Namespace) -> None:
    from verinn.io.places import check_file, check_folder

    for path in (args.json, args.state):
        if path is not None:
            check_file(path)
    if args.pictures is not None:
        check_folder(args.pictures)


def _decided(args: argparse.Namespace, deadline: float | None, stage: Stage) -> tuple[Report, Callable[[], None]]:
    """The report, whatever happens, and how to draw it. Only InputError gets out: a defect of ours is `unknown`."""
    from verinn.region.verdict import Kind, Report

    try:
        return _ask(args, deadline, stage)
    except InputError:
        raise
    except MemoryError:
        reason = "internal error: out of memory"
    except BaseException as error:
        if args.verbose:
            traceback.print_exc(file=sys.stderr)
        reason = f"internal error: {type(error).__name__}: {str(error)[:300]}"
    return Report(Kind.UNKNOWN, args.kind, args.model, 0, 0, reason=reason), lambda: None


def _ask(args: argparse.Namespace, deadline: float | None, stage: Stage) -> tuple[Report, Callable[[], None]]:
    from verinn.options import Options
    from verinn.region.decide import Settings, decide
    from verinn.region.state import fingerprint

    if args.kind == "transform":
        return _transform(args, deadline, stage)
    question = _question(args)
    if args.kind == "distance":
        return _distance(args, question, deadline, stage)
    if args.kind == "layer":
        report = _layers(args, question, deadline, stage)
        return report, lambda: _draw(args, question, report)
    early = None if deadline is None else deadline - min(1.0, 0.05 * args.timeout)  # a batch may take a second
    options = Options(deadline=early, device="cpu", seed=args.seed)
    mark = fingerprint(args.model, [grid for _, grid in question.grids], question.text, args.ties, str(args.cells))
    settings = Settings(
        options, args.cells, args.state, mark, stop=stage.stop.is_set, tell=_teller(stage, args.verbose)
    )
    report = decide(question, settings)
    return report, lambda: _draw(args, question, report)


def _transform(args: argparse.Namespace, deadline: float | None, stage: Stage) -> tuple[Report, Callable[[], None]]:
    from verinn.options import Options
    from verinn.region.images import load_image, save_pictures
    from verinn.region.manipulations import family_from_words, load_family
    from verinn.region.transform import compose, save_model, verify_family

    if args.image is None or args.property is not None:
        raise InputError(
            "region transform: needs --image, and no property", hint="verinn region transform MODEL --image F"
        )
    for name in ("radius", "dims"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name} does not go with manipulations", hint=f"leave --{name} out")
    if (args.manipulations is None) == (not args.manipulate):
        raise InputError("region transform: give either --manipulations or --manipulate")
    family = load_family(args.manipulations) if args.manipulations else family_from_words(args.manipulate)
    image = load_image(args.image, args.index)
    composition = compose(args.model, image, family, _scale(args), args.label, args.ties)
    if args.save_model is not None:
        save_model(composition, args.save_model)
    report = verify_family(
        composition, Options(deadline=deadline, device="cpu", seed=args.seed), stage.stop.is_set,
        _teller(stage, args.verbose), args.state,
    )  # fmt: skip

    def draw() -> None:
        if args.pictures is not None:
            found = None if report.point is None else composition.image(report.point)
            made = [*save_pictures(args.pictures, composition.pixels, found), *_covered(args, report)]
            tell(f"pictures: {', '.join(str(path) for path in made)}")

    return report, draw


def _distance(
    args: argparse.Namespace, question: Question, deadline: float | None, stage: Stage
) -> tuple[Report, Callable[[], None]]:
    from verinn.options import Options
    from verinn.region.distance import NORMS, DistanceSettings, smallest_change
    from verinn.region.images import save_plot
    from verinn.region.state import fingerprint

    early = None if deadline is None else deadline - min(1.0, 0.05 * args.timeout)  # a batch may take a second
    options = Options(deadline=early, device="cpu", seed=args.seed)
    mark = fingerprint(
        args.model, [grid for _, grid in question.grids], question.text, args.ties, args.norm, str(args.on_grid),
        str(question.scale), str(None if question.centre is None else question.centre.tolist()),
    )  # fmt: skip
    report = smallest_change(
        question,
        DistanceSettings(
            options,
            NORMS[args.norm],
            args.on_grid,
            stop=stage.stop.is_set,
            tell=_teller(stage, args.verbose),
            state=args.state,
            mark=mark,
        ),
    )

    def draw() -> None:
        _draw(args, question, replace(report, statistics={}))
        if args.pictures is not None:
            history = report.statistics["history"]
            finite = [(t, high) for t, _, high in history if high != float("inf")]
            curves = [("at least", [t for t, _, _ in history], [low for _, low, _ in history])]
            if finite:
                curves.append(("at most", [t for t, _ in finite], [high for _, high in finite]))
            title = f"Smallest adversarial change in L{args.norm}"
            tell(f"plot: {save_plot(os.path.join(args.pictures, 'bounds.png'), curves, 'seconds', 'pixels', title)}")

    return report, draw


def _layers(args: argparse.Namespace, question: Question, deadline: float | None, stage: Stage) -> Report:
    from verinn.options import Options
    from verinn.region.layered import LayerSettings, search_layers

    if args.state is not None:
        raise InputError("layers are searched anew each time", place="--state", hint="leave --state out")
    first, last = (args.layers[0], args.layers[-1]) if args.layers else (0, -1)
    settings = LayerSettings(
        Options(deadline=deadline, device="cpu", seed=args.seed), first, last, args.size, args.features, args.number,
        args.by, args.paths, args.cells, args.back, stage.stop.is_set, _teller(stage, args.verbose),
    )  # fmt: skip
    return search_layers(question, settings)


def _question(args: argparse.Namespace) -> Question:
    from verinn.region.images import load_image
    from verinn.region.question import about_image, about_property

    if (args.image is None) == (args.property is None):
        raise InputError("region: give either a property or --image", hint="verinn region grid MODEL --image FILE")
    if args.property is not None:
        for name in ("label", "radius", "dims", "index"):
            if getattr(args, name) is not None:
                raise InputError(
                    f"--{name} goes with an image, the property says it already", hint=f"leave --{name} out"
                )
        return about_property(args.model, args.property, _scale(args), args.seed)
    image = load_image(args.image, args.index)
    return about_image(args.model, image, _scale(args), args.radius, args.label, args.dims, args.ties, args.seed)


def _scale(args: argparse.Namespace) -> Scale:
    from verinn.region.question import Scale

    count = args.levels
    if count == "auto":  # pixels from 0 to 1 where a whole number of steps reaches 1
        whole = all(step > 0 and (1 / step).denominator == 1 for step in args.step) and len(set(args.step)) == 1
        count = int(1 / args.step[0]) + 1 if whole else None
    return Scale(args.step, args.mean, args.std, count)


def _draw(args: argparse.Namespace, question: Question, report: Report) -> None:
    if args.pictures is None:
        return
    from verinn.region.images import save_pictures

    original = question.original()
    shown = None if original is None else question.pixels(original)
    found = None if report.point is None else question.pixels(report.point)
    made = [*save_pictures(args.pictures, shown, found), *_covered(args, report)]
    tell(f"pictures: {', '.join(str(path) for path in made) or 'none (the input is no image)'}")


def _covered(args: argparse.Namespace, report: Report) -> list[Path]:
    """The plot of the share that is covered over time, where the report tells it."""
    from verinn.region.images import save_plot

    history = report.statistics.get("history", [])
    if not history:
        return []
    if args.kind == "layer":
        kinds = dict.fromkeys(what for _, what, _ in history)
        rows = {kind: [(t, 100 * share) for t, what, share in history if what == kind] for kind in kinds}
    else:
        scale = max(1, history[-1][1] if args.cells else sum(cover.total for cover in report.covers))
        rows = {"covered": [(t, 100 * (units / scale)) for t, units in history]}
    curves = [(name, [t for t, _ in some], [share for _, share in some]) for name, some in rows.items()]
    where, title = os.path.join(args.pictures, "covered.png"), "Share of the region that is proved"
    return [save_plot(where, curves, "seconds", "percent", title)]


def _teller(stage: Stage, verbose: bool) -> Callable[[str], None]:
    last = [0.0]

    def told(text: str) -> None:
        stage.told(text)
        now = time.monotonic()
        if verbose and now - last[0] > 1.0:
            last[0] = now
            tell(text)

    return told


def _start_watch(deadline: float | None, stage: Stage) -> None:
    from verinn.face.watch import watch

    def end(reason: str) -> None:
        """A line in the engine's place, when it does not come back by itself."""
        if stage.claim():
            with contextlib.suppress(BaseException):
                stage.write(
                    "\n".join(["unknown", *([stage.latest] if stage.latest else []), f"reason: {reason}"]) + "\n"
                )
            tell(f"unknown: {reason}")
            os._exit(0)

    def interrupted(name: str) -> None:
        if stage.stop.is_set():
            end(f"interrupted twice ({name})")
        stage.stop.set()
        if not stage.done.wait(GRACE):
            end(f"interrupted ({name})")

    watch(deadline, lambda: end("the time limit was reached"), interrupted)


def _print(text: str) -> None:
    print(text, end="", flush=True)
