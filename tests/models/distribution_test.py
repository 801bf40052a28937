"""MirroredStrategy over virtual CPUs, each number of them in a process."""

import functools
import subprocess
import sys

import pytest

from tests.helpers.distribution.run import CHECKS
from tests.helpers.paths import ROOT


@functools.cache
def outcomes(replicas):
    """Runs all checks on so many replicas; maps each to its outcome."""
    # A second MirroredStrategy in one process can die.
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.helpers.distribution.run",
            str(replicas),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    lines = [line.partition(": ") for line in process.stdout.splitlines()]
    found = {name: outcome for name, _, outcome in lines if name in CHECKS}
    assert process.returncode == 0, process.stderr[-2000:]
    return found


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas(replicas, check):
    assert outcomes(replicas)[check] == "passed"
