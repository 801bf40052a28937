"""MirroredStrategy over virtual CPUs, each number of them in a process."""

import functools

import pytest

from tests.helpers.distribution.run import CHECKS
from tests.helpers.processes import Program

pytestmark = pytest.mark.slow


@functools.cache
def outcomes(replicas):
    """Runs the checks on so many replicas; maps each to its outcome."""
    # A second MirroredStrategy in one process can die.
    program = Program("tests.helpers.distribution.run", replicas)
    printed, errors = program.communicate(timeout=900)
    assert program.returncode == 0, errors[-3000:]
    return dict(line.split(": ", 1) for line in printed.splitlines())


@pytest.mark.parametrize(
    ("replicas", "check"),
    [(replicas, check) for replicas in CHECKS for check in CHECKS[replicas]],
)
def test_replicas(replicas, check):
    assert outcomes(replicas)[check] == "passed"
