"""MirroredStrategy over virtual CPUs, each number of them in a process."""

import functools

import pytest

from tests.helpers.distribution.run import OF_REPLICAS, outcomes
from tests.helpers.processes import Program

pytestmark = pytest.mark.slow


@functools.cache
def outcomes_on(replicas):
    # A second MirroredStrategy in one process can die.
    name = "tests.helpers.distribution.run"
    return outcomes(Program(name, "replicas", replicas), 900)


@pytest.mark.parametrize(
    ("replicas", "check"),
    [(count, check) for count, named in OF_REPLICAS.items() for check in named],
)
def test_replicas(replicas, check):
    found = outcomes_on(replicas)
    assert found.get(check, found[None]) == "passed"
