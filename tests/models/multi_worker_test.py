"""MultiWorkerMirroredStrategy: a cluster of two processes."""

import functools
import signal

import pytest

from tests.helpers.workers.processes import free_addresses, start
from tests.helpers.workers.run import CHECKS, LAST

pytestmark = pytest.mark.slow

SECONDS = 540


@functools.cache
def outcomes():
    """Outcomes of all checks by name, and the exit status, of each worker."""
    addresses = free_addresses(2)
    workers = [
        start(index, addresses, "tests.helpers.workers.run", SECONDS)
        for index in range(2)
    ]
    results = []
    for worker in workers:
        printed, errors = worker.communicate(timeout=SECONDS + 60)
        found = dict(line.split(": ", 1) for line in printed.splitlines())
        results.append((found, worker.returncode, errors[-3000:]))
    return results


@pytest.mark.parametrize("check", [name for name in CHECKS if name not in LAST])
def test_two_workers(check):
    for found, _, end in outcomes():
        assert found.get(check, end) == "passed"


def test_killed_worker_stops_the_other():
    (found, status, end), (_, killed, _) = outcomes()
    assert killed == -signal.SIGKILL
    assert status == 0, end
    for check in LAST:
        assert found.get(check, end) == "passed"
