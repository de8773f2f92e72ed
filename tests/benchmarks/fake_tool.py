"""A stand-in for a verifier: ``python fake_tool.py MOOD ONNX VNNLIB TIMEOUT [RESULT]``; the mood says what it does."""

import os
import subprocess
import sys
import time
from pathlib import Path

WITNESS = "((X_0 {x})\n (X_1 0.5)\n (Y_0 7.0))\n"  # printed outputs are ignored


def right(model: str) -> str:
    """The model's name tells the truth."""
    return "sat\n" + WITNESS.format(x=0.5) if model != "no.onnx" else "unsat\n"


def wrong(model: str) -> str:
    return "unsat\n" if model != "no.onnx" else "sat\n"


def bad_witness(model: str) -> str:
    return "sat\n" + WITNESS.format(x=1.5)


def no_witness(model: str) -> str:
    return "sat\n"


def crash(model: str) -> str:
    print("Traceback", "ValueError: no such luck", sep="\n", file=sys.stderr, flush=True)
    sys.exit(3)


def die(model: str) -> str:
    print("unsat", flush=True)
    os.abort()


def hang(model: str) -> str:
    """With a child that hangs, too, and is the first to tell where it can be found."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(os.environ["FAKE_PIDS"]).write_text(str(child.pid))
    time.sleep(60)
    return ""


def leave_behind(model: str) -> str:
    """An answer, and a child that goes on."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(os.environ["FAKE_PIDS"]).write_text(str(child.pid))
    return right(model)


def big(model: str) -> str:
    """64 MiB, touched."""
    block = bytearray(64 << 20)
    return right(model) if block else ""


def talk(model: str) -> str:
    """A log, the verdict at its end, and an exit code that means nothing."""
    print("timeout is 5\nunknown options are ignored\nunsat core: none yet")
    print(f"Result: {right(model).splitlines()[0].upper()}", flush=True)
    sys.exit(20)


if __name__ == "__main__":
    mood, model = sys.argv[1], sys.argv[2]
    answer = globals()[mood](os.path.basename(model))
    if len(sys.argv) > 5:
        Path(sys.argv[5]).write_text(answer)
    else:
        print(answer, end="", flush=True)
