"""``verinn bench``: a list of instances, each in a process of its own, compared with the truth.

Rows are appended to the results file as they come, so that a run that was cut off goes on where it
stopped. Nothing of one instance can disturb another: a crash is a row that says so.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from verinn.errors import InputError
from verinn.face.answer import tell
from verinn.face.verify import seconds
from verinn.io.instances import Instance, read_instances, read_truth

GRACE = 10.0  # seconds beyond its limit after which an instance is killed
LATE = 1.0  # seconds beyond its limit that an answer may still take
VERDICTS = ("sat", "unsat", "unknown", "timeout", "error")
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


COLUMNS = tuple(field.name for field in fields(Row))


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


def run(args: argparse.Namespace, process: bool) -> int:
    """Exit code 0; 1 when an answer is wrong against the truth or a witness is bad; 130 when interrupted."""
    instances = _chosen(args)
    truth = {instance.key: instance.expected for instance in instances if instance.expected}
    if args.truth is not None:
        truth.update(read_truth(args.truth))
    out = Log(args.out)
    wanted = {instance.key for instance in instances}
    rows = [row for row in out.rows if row.key in wanted]
    done = {row.key for row in rows}
    left = [instance for instance in instances if instance.key not in done]
    if rows:
        tell(f"{len(rows)} of {len(instances)} are in {args.out} already")
    interrupted = False
    try:
        for row in run_all(left, args.jobs, args.device):
            out.append(row)
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


class Log:
    """The results file: what it holds already, and a way to append that survives being cut off."""

    def __init__(self, path: str | None):
        self._path = path
        self.rows: list[Row] = []
        if path is None:
            return
        try:
            text = Path(path).read_text(encoding="utf-8") if Path(path).exists() else ""
            whole = text[: text.rfind("\n") + 1]  # a torn last line is dropped
            if not whole:
                whole = ",".join(COLUMNS) + "\n"
            self.rows = _parse(whole, path)
            if whole != text:
                Path(path).write_text(whole, encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"can't be used ({error})", file=path, hint="choose a writable place") from None

    def append(self, row: Row) -> None:
        if self._path is None:
            return
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(asdict(row).values())
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(line.getvalue())
            stream.flush()
            os.fsync(stream.fileno())


def _parse(text: str, path: str) -> list[Row]:
    lines = list(csv.reader(io.StringIO(text)))
    if tuple(lines[0]) != COLUMNS:
        raise InputError("is not a results file of bench", file=path, hint="name another --out")
    rows = []
    for line in lines[1:]:
        if len(line) != len(COLUMNS):
            continue
        record = dict(zip(COLUMNS, line, strict=True))
        try:
            numbers = {name: float(record.pop(name)) for name in ("timeout", "seconds")}
        except ValueError:
            continue
        rows.append(Row(**record, **numbers))  # type: ignore[arg-type]
    return rows


def run_all(instances: Sequence[Instance], jobs: int, device: str) -> Iterator[Row]:
    """A row for each instance, in the order in which they end. Closing the iterator ends what runs."""
    from verinn.face.display import Bar

    running = Children()
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
    with ThreadPoolExecutor(jobs) as pool, Bar(len(instances)) as bar:
        futures: list[Future[Row]] = [
            pool.submit(run_one, instance, device, running, threads) for instance in instances
        ]
        try:
            for future in as_completed(futures):
                row = future.result()
                bar.step(f"{row.verdict} {row.seconds:.2f} s {row.onnx} {row.vnnlib} {row.witness} {row.reason}")
                yield row
        finally:
            for future in futures:
                future.cancel()
            running.kill()


class Children:
    """The processes that run now, so that they can be ended together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def add(self, child: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.add(child)
            if self._closed:
                _kill(child)

    def remove(self, child: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.discard(child)

    def kill(self) -> None:
        with self._lock:
            self._closed = True
            for child in self._running:
                _kill(child)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End a child and whatever it started: it leads a process group of its own."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        child.kill()


def run_one(
    instance: Instance, device: str = "auto", running: Children | None = None, threads: int | None = None
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
        begun = time.monotonic()
        code, errors = _process(command, environment, instance.timeout + GRACE, running)
        took = time.monotonic() - begun
        text = results.read_text() if results.is_file() else ""
        verdict, reason = _outcome(code, text, errors, took, instance.timeout)
        witness = _judge(instance, text) if verdict == "sat" else ""
    return Row(instance.set, instance.onnx, instance.vnnlib, instance.timeout, verdict, round(took, 3), witness, reason)


def _process(
    command: list[str], environment: dict[str, str], limit: float, running: Children | None
) -> tuple[int | None, str]:
    """Exit code (None: killed for being late) and what it wrote to stderr."""
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env=environment, start_new_session=True,
    )  # fmt: skip
    if running is not None:
        running.add(child)
    try:
        _, errors = child.communicate(timeout=limit)
        code: int | None = child.returncode
    except subprocess.TimeoutExpired:
        _kill(child)
        _, errors = child.communicate()
        code = None
    finally:
        if running is not None:
            running.remove(child)
    return code, errors.decode(errors="replace")


def _outcome(code: int | None, text: str, errors: str, took: float, limit: float) -> tuple[str, str]:
    """The verdict of a row, and why."""
    if code is None:
        return "error", f"killed: still running {GRACE:g} s past its limit"
    if code < 0:
        return "error", f"killed by {_signal_name(-code)}: {_last_line(errors)}".rstrip(": ")
    word = text.split("\n", 1)[0].strip()
    if code != 0 or word not in VERDICTS:
        return "error", _last_line(errors) or f"exit code {code} and no verdict"
    if took > limit + LATE and word in ("sat", "unsat"):
        return "timeout", f"{word} came {took - limit:.1f} s late"
    reason = _last_line(errors) if word == "unknown" else ""
    if "internal error" in reason:
        return "error", reason
    return word, reason


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"{name} (out of memory?)" if name == "SIGKILL" else name


def _last_line(errors: str) -> str:
    """The last line of verinn's own on stderr, else the last line."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    own = [line.removeprefix("verinn: ") for line in lines if line.startswith("verinn: ")]
    return " ".join(((own or lines) or [""])[-1].split())[:300]


def _judge(instance: Instance, text: str) -> str:
    from verinn.face.recheck import recheck
    from verinn.io.instances import parse_models

    try:
        fault = recheck(parse_models(instance.model_argument), str(instance.property_path), text)
    except Exception as error:  # the check itself failed: that is no confirmation
        fault = f"{type(error).__name__}: {error}"
    return "bad: " + " ".join(fault.split())[:300] if fault else "ok"
