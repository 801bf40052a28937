"""Law 1 under MirroredStrategy: two virtual CPUs, in a process of their own."""

import functools

import pytest

from tests.helpers.distribution.beside import CHECKS
from tests.helpers.processes import Program

pytestmark = pytest.mark.slow


@functools.cache
def outcomes():
    """Runs the checks; maps each to its outcome."""
    program = Program("tests.helpers.distribution.beside")
    printed, errors = program.communicate(timeout=600)
    assert program.returncode == 0, errors[-3000:]
    return dict(line.split(": ", 1) for line in printed.splitlines())


@pytest.mark.parametrize("check", CHECKS)
def test_two_replicas(check):
    assert outcomes()[check] == "passed"
