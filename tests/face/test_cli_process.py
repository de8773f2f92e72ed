"""What only a process of its own shows: the limit, signals, a clean stdout."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from face_tools import run, start


def test_the_watch_keeps_the_limit(one: str, tmp_path: Path) -> None:
    """The stand-in sleeps for half a minute and knows no limit."""
    results = tmp_path / "results.txt"
    begun = time.monotonic()
    code, out, err = run("verify", "sleep.onnx", one, "--timeout", "1.5", "--results", str(results))
    assert (code, out) == (0, "timeout\n")
    assert results.read_text() == "timeout\n"
    assert "Traceback" not in err
    assert time.monotonic() - begun < 20


def test_the_engine_may_end_on_its_own(one: str) -> None:
    assert run("verify", "late.onnx", one, "--timeout", "2")[:2] == (0, "timeout\n")


def test_a_limit_too_small_for_anything(one: str) -> None:
    assert run("verify", "sleep.onnx", one, "--timeout", "0.001")[:2] == (0, "timeout\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_with_a_verdict(number: signal.Signals, one: str, tmp_path: Path) -> None:
    results = tmp_path / "results.txt"
    child = start("verify", "sleep.onnx", one, "--results", str(results))
    time.sleep(1.5)
    child.send_signal(number)
    out, err = child.communicate(timeout=20)
    assert child.returncode == 0
    assert out == "unknown\n"
    assert err == f"verinn: unknown: interrupted ({number.name})\n"
    assert results.read_text() == "unknown\n"


def test_stdout_holds_the_verdict_only(one: str) -> None:
    code, out, err = run("verify", "print.onnx", one)
    assert (code, out) == (0, "unsat\n")
    assert "a library talks" in err
    assert "native code, too" in err


def test_exit_codes_of_a_process(one: str) -> None:
    assert run("verify", "boom.onnx", one)[:2] == (0, "unknown\n")
    code, out, err = run("verify", "bad.onnx", one)
    assert (code, out) == (2, "")
    assert err == "verinn: error: bad.onnx: node 3: the file is odd; do better\n"


def test_a_reader_that_went_away(one: str) -> None:
    child = start("verify", "sat.onnx", one)
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    errors = child.stderr.read()
    child.stderr.close()
    assert child.wait(timeout=20) == 0
    assert errors == ""


def test_a_terminal_gets_a_live_line_and_a_file_does_not(one: str) -> None:
    pty = pytest.importorskip("pty")
    _, _, plain = run("verify", "unsat.onnx", one)
    assert plain == ""
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "face_fake.py"), "verify", "late.onnx", one, "--timeout", "2"],
        stdout=subprocess.PIPE, stderr=follower, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(follower)
    seen = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    out, _ = child.communicate(timeout=20)
    os.close(leader)
    assert out == b"timeout\n"
    assert b"3 open" in seen
