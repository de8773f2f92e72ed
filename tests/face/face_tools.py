"""Small files and runs for the tests of the face."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

ONE = """\
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(assert (>= X_0 0.0))
(assert (<= X_0 1.0))
(assert (>= X_1 0.0))
(assert (<= X_1 1.0))
(assert (>= Y_0 1.0))
"""
TWO = """\
(vnnlib-version <2.0>)
(declare-network f
    (declare-input A float32 [1, 2])
    (declare-output B float32 [])
)
(assert (>= A[0,0] 0.0))
(assert (<= A[0,0] 1.0))
(assert (>= A[0,1] 0.0))
(assert (<= A[0,1] 1.0))
(assert (>= B 1.0))
"""


def start(*arguments: str, **options: object) -> "subprocess.Popen[str]":
    """``verinn ARGUMENTS`` with the stand-in, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(HERE / "face_fake.py"), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        **options,  # type: ignore[call-overload]
    )


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``verinn ARGUMENTS`` with the stand-in."""
    child = start(*arguments)
    out, err = child.communicate(timeout=60)
    return child.returncode, out, err
