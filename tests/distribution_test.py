"""MirroredStrategy over virtual CPUs, each number of them in a process."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from distribution_run import CHECKS

TESTS = Path(__file__).parent


@functools.cache
def outcomes(replicas):
    """Runs all checks on so many replicas; maps each to its outcome."""
    # A second MirroredStrategy in one process can die.
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    process = subprocess.run(
        [sys.executable, str(TESTS / "distribution_run.py"), str(replicas)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
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
