"""The script is told to end while it still imports TensorFlow."""

import re
import signal
import subprocess
import sys
import time

import pytest

import train
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow


def listens(pid):
    """Whether a process handles SIGUSR1, as Python itself does not."""
    with open(f"/proc/{pid}/status") as file:
        caught = int(re.search(r"SigCgt:\s*(\w+)", file.read())[1], 16)
    return caught >> (signal.SIGUSR1 - 1) & 1


@pytest.mark.skipif(sys.platform != "linux", reason="Reads Linux's /proc.")
@pytest.mark.parametrize(
    ("number", "seconds", "code"),
    [(signal.SIGINT, 0, 130), (signal.SIGUSR1, 1, 143)],
)
def test_a_signal_during_imports_ends_the_script(
    tmp_path, number, seconds, code
):
    process = subprocess.Popen(
        [sys.executable, train.__file__, f"--workdir={tmp_path / 'run'}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not listens(process.pid):
        time.sleep(0.001)
    time.sleep(seconds)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert errors.endswith(
        f"train.py: interrupted by {number.name}: the same command goes on.\n"
    )
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()
