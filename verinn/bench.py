"""``verinn bench``: a list of instances, each in a process of its own, compared with the truth.

Rows are appended to the results file as they come, so that a run that was cut off goes on where it
stopped. Nothing of one instance can disturb another: a crash is a row that says so.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from verinn.audit import process
from verinn.audit.log import Log
from verinn.audit.parallel import in_parallel
from verinn.audit.process import Running
from verinn.audit.verdict import DECIDED, VERDICTS, last_line, signal_name
from verinn.errors import InputError
from verinn.face.answer import tell
from verinn.face.verify import seconds
from verinn.io.instances import Instance, read_instances, read_truth

GRACE = 10.0  # seconds beyond its limit after which an instance is killed
LATE = 1.0  # seconds beyond its limit that an answer may still take
COMMAND = [sys.executable, "-m", "verinn"]


@dataclass(frozen=True)
class Row:
    """One line of the results file. ``witness``: "ok", "bad: why", or empty when there is none."""

    set: str
    onnx: str
    vnnlib: str
    timeout: float
    verdict: str
    seconds: float
    witness: str = ""
    reason: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.onnx, self.vnnlib


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("list", metavar="FOLDER_OR_CSV", help="a folder with instances.csv, or a csv")
    parser.add_argument("--timeout", type=seconds, metavar="S", help="for every instance, instead of the list's")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="instances at a time")
    parser.add_argument("--truth", metavar="CSV", help="columns onnx,vnnlib,expected")
    parser.add_argument("--out", metavar="CSV", help="append a row for each instance; rows that are there are kept")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only instances whose names hold TEXT")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def positive(text: str) -> int:
    if not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"`{text}` is not a number above zero")
    return int(text)


def run(args: argparse.Namespace, _: bool) -> int:
    """Exit code 0; 1 when an answer is wrong against the truth or a witness is bad; 130 when interrupted."""
    instances = _chosen(args)
    truth = {instance.key: instance.expected for instance in instances if instance.expected}
    if args.truth is not None:
        truth.update(read_truth(args.truth))
    log = Log(args.out, Row, "bench")
    wanted = {instance.key for instance in instances}
    rows = [row for row in log.rows if row.key in wanted]
    done = {row.key for row in rows}
    left = [instance for instance in instances if instance.key not in done]
    if rows:
        tell(f"{len(rows)} of {len(instances)} are in {args.out} already")
    interrupted = False
    try:
        for row in run_all(left, args.jobs, args.device):
            log.append(row)
            rows.append(row)
    except KeyboardInterrupt:
        interrupted = True
    from verinn.face.table import faults, show

    show(rows, truth)
    if interrupted:
        tell(f"interrupted: {len(instances) - len(rows)} instances are left")
        return 130
    return 1 if faults(rows, truth) else 0


def _chosen(args: argparse.Namespace) -> list[Instance]:
    instances = read_instances(args.list)
    if args.timeout is not None:
        instances = [replace(instance, timeout=args.timeout) for instance in instances]
    chosen = [instance for instance in instances if args.filter in f"{instance.onnx} {instance.vnnlib}"]
    if not chosen:
        raise InputError(f"no instance matches `{args.filter}`", file=args.list, hint="check --filter")
    return list({instance.key: instance for instance in chosen}.values())


def run_all(instances: Sequence[Instance], jobs: int, device: str) -> Generator[Row, None, None]:
    """A row for each instance, in the order in which they end. Closing the iterator ends what runs."""
    from verinn.face.display import Bar

    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
    work = partial(_run_one, device, threads)
    with Bar(len(instances)) as bar, closing(in_parallel(instances, jobs, work)) as rows:
        for row in rows:
            bar.step(f"{row.verdict} {row.seconds:.2f} s {row.onnx} {row.vnnlib} {row.witness} {row.reason}")
            yield row


def _run_one(device: str, threads: int | None, instance: Instance, running: Running) -> Row:
    return run_one(instance, device, running, threads)


def run_one(
    instance: Instance, device: str = "auto", running: Running | None = None, threads: int | None = None
) -> Row:
    """Run one instance in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="verinn-bench-") as folder:
        results = Path(folder) / "results"
        command = [
            *COMMAND, "verify", instance.model_argument, str(instance.property_path),
            "--timeout", f"{instance.timeout:g}", "--results", str(results), "--device", device,
        ]  # fmt: skip
        environment = dict(os.environ)
        if threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        scratch = Path(folder)
        ended = process.run(command, instance.timeout + GRACE, Path.cwd(), environment, scratch, running=running)
        text = results.read_text() if results.is_file() else ""
        verdict, reason = _outcome(ended, text, instance.timeout)
        witness = _judge(instance, text) if verdict == "sat" else ""
    return Row(
        instance.set,
        instance.onnx,
        instance.vnnlib,
        instance.timeout,
        verdict,
        round(ended.seconds, 3),
        witness,
        reason,
    )


def _outcome(ended: process.Ended, text: str, limit: float) -> tuple[str, str]:
    """The verdict of a row, and why."""
    last = _own_line(ended.err)
    if ended.code is None:
        return "error", f"killed: still running {GRACE:g} s past its limit"
    if ended.code < 0:
        return "error", f"killed by {signal_name(-ended.code)}: {last}".rstrip(": ")
    word = text.split("\n", 1)[0].strip()
    if ended.code != 0 or word not in VERDICTS:
        return "error", last or f"exit code {ended.code} and no verdict"
    if ended.seconds > limit + LATE and word in DECIDED:
        return "timeout", f"{word} came {ended.seconds - limit:.1f} s late"
    reason = last if word == "unknown" else ""
    if "internal error" in reason:
        return "error", reason
    return word, reason


def _own_line(errors: str) -> str:
    """The last line of verinn's own on stderr, else the last line."""
    own = [line.strip() for line in errors.splitlines() if line.strip().startswith("verinn: ")]
    return last_line(own[-1].removeprefix("verinn: ") if own else errors, 300)


def _judge(instance: Instance, text: str) -> str:
    from verinn.face.recheck import recheck
    from verinn.io.instances import parse_models

    try:
        fault = recheck(parse_models(instance.model_argument), str(instance.property_path), text)
    except Exception as error:  # the check itself failed: that is no confirmation
        fault = f"{type(error).__name__}: {error}"
    return "bad: " + " ".join(fault.split())[:300] if fault else "ok"
