"""MultiWorkerMirroredStrategy: one cluster of processes for each number."""

import contextlib
import functools
import signal
import subprocess
import tempfile

import pytest

from tests.helpers.workers.processes import free_addresses, start
from tests.helpers.workers.run import LAST, checks

SECONDS = 540


@functools.cache
def outcomes(num_workers):
    """Outcomes of all checks by name, and the exit status, of each worker."""
    addresses = free_addresses(num_workers)
    with contextlib.ExitStack() as stack:
        outputs = [
            stack.enter_context(tempfile.TemporaryFile("w+")) for _ in addresses
        ]
        processes = [
            start(
                index,
                addresses,
                "tests.helpers.workers.run",
                SECONDS,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            for index, output in enumerate(outputs)
        ]
        try:
            statuses = [p.wait(timeout=SECONDS + 60) for p in processes]
        finally:
            for process in processes:
                process.kill()
        results = []
        for output, status in zip(outputs, statuses, strict=True):
            output.seek(0)
            lines = output.read().splitlines()
            found = dict(line.split(": ", 1) for line in lines if ": " in line)
            results.append((found, status, "\n".join(lines[-20:])))
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
