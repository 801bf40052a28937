"""MultiWorkerMirroredStrategy: a cluster of two processes."""

import functools
import signal

import pytest

from tests.helpers.distribution.run import LAST, OF_WORKERS, outcomes
from tests.helpers.workers import free_addresses, start

pytestmark = pytest.mark.slow

SECONDS = 540


@functools.cache
def workers():
    """The outcomes of all checks, and the exit status, of each worker."""
    addresses = free_addresses(2)
    arguments = addresses, "tests.helpers.distribution.run", "worker", SECONDS
    programs = [start(index, *arguments) for index in range(2)]
    return [(outcomes(p, SECONDS + 60), p.returncode) for p in programs]


@pytest.mark.parametrize("check", [c for c in OF_WORKERS if c not in LAST])
def test_two_workers(check):
    for found, _ in workers():
        assert found.get(check, found[None]) == "passed"


def test_killed_worker_stops_the_other():
    (found, status), (_, killed) = workers()
    assert killed == -signal.SIGKILL
    assert status == 0, found[None]
    for check in LAST:
        assert found.get(check, found[None]) == "passed"
