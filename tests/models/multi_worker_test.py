"""MultiWorkerMirroredStrategy: one cluster of processes for each number."""

import functools
import signal

import pytest

from tests.helpers.workers.processes import free_addresses, start
from tests.helpers.workers.run import LAST, checks

SECONDS = 540


@functools.cache
def outcomes(num_workers):
    """Outcomes of all checks by name, and the exit status, of each worker."""
    addresses = free_addresses(num_workers)
    workers = [
        start(index, addresses, "tests.helpers.workers.run", SECONDS)
        for index in range(num_workers)
    ]
    results = []
    for worker in workers:
        printed, errors = worker.communicate(timeout=SECONDS + 60)
        found = dict(line.split(": ", 1) for line in printed.splitlines())
        results.append((found, worker.returncode, errors[-3000:]))
    return results


@pytest.mark.parametrize(
    "num_workers, check",
    [(n, name) for n in (2, 3) for name in checks(n) if name not in LAST],
)
def test_workers(num_workers, check):
    for found, _, end in outcomes(num_workers):
        assert found.get(check, end) == "passed"


@pytest.mark.parametrize("num_workers", [2, 3])
def test_killed_worker_stops_the_others(num_workers):
    *others, (_, killed, _) = outcomes(num_workers)
    assert killed == -signal.SIGKILL
    for found, status, end in others:
        assert status == 0, end
        for check in LAST:
            assert found.get(check, end) == "passed"
