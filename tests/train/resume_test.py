"""The script is told to end, in training or before, and is started again."""

import re
import signal
import subprocess
import sys
import time

import pytest

import train
from tests.helpers.contents import contents
from tests.helpers.paths import ROOT
from tests.helpers.processes import Program

pytestmark = pytest.mark.slow

ARGUMENTS = (
    "--deterministic",
    "--config.epochs=30",
    "--config.batch_size=64",
    "--config.model.hidden_units=(16,)",
)


def start(workdir, interval, threads):
    return Program(
        "train.py",
        f"--workdir={workdir}",
        f"--checkpoint_every={interval}",
        *ARGUMENTS,
        TF_NUM_INTEROP_THREADS=threads,
    )


def test_interrupted_or_not_and_whatever_the_threads_it_is_the_same(tmp_path):
    in_peace, interrupted = tmp_path / "in_peace", tmp_path / "interrupted"
    assert start(in_peace, 20, "1").wait() == 0

    program = start(interrupted, 20, "2")
    program.wait_until(lambda: [*interrupted.glob("checkpoints/step-*.npz")])
    program.send_signal(signal.SIGTERM)
    _, errors = program.communicate()
    assert program.returncode == 143
    assert errors == (
        "train.py: interrupted by SIGTERM: the same command goes on from "
        "here.\n"
    )
    assert not (interrupted / "results.json").exists()
    # Events that are torn are neither read nor changed.
    events = next(interrupted.glob("*/events.out.tfevents.*"))
    torn = events.read_bytes()[:-5]
    events.write_bytes(torn)

    # Checkpoints of another interval must not change a bit either.
    program = start(interrupted, 1, "2")
    _, errors = program.communicate()
    assert (program.returncode, errors) == (0, "")
    assert contents(interrupted) == contents(in_peace)
    assert events.read_bytes() == torn
    assert not (interrupted / "checkpoints").exists()


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
