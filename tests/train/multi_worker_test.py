"""The script over two workers: as one device, killed, and started again."""

import numpy as np
import pytest

from tests.helpers.contents import contents
from tests.helpers.processes import Program
from tests.helpers.small_runs import weights
from tests.helpers.workers import free_addresses, start

pytestmark = pytest.mark.slow

ARGUMENTS = (
    "--deterministic",
    "--checkpoint_every=10",
    "--config.epochs=3",
    "--config.batch_size=64",
    "--config.ell=2",
    "--config.model.hidden_units=(16,)",
)


def start_workers(workdir):
    addresses = free_addresses(2)
    arguments = [f"--workdir={workdir}", "--strategy=multi_worker", *ARGUMENTS]
    return [start(i, addresses, "train", *arguments) for i in range(2)]


def end(program):
    """The exit code, stdout and stderr."""
    output, errors = program.communicate()
    assert "Traceback" not in errors, errors[-3000:]
    return program.returncode, output, errors


def test_two_workers_train_as_one_device_and_outlive_a_kill(tmp_path):
    in_peace, killed = tmp_path / "in_peace", tmp_path / "killed"
    alone = tmp_path / "alone"
    ends = [end(worker) for worker in start_workers(in_peace)]
    assert [code for code, *_ in ends] == [0, 0], ends
    assert ["test accuracy" in output for _, output, _ in ends] == [True, False]
    assert end(Program("train", *ARGUMENTS, f"--workdir={alone}"))[0] == 0
    np.testing.assert_allclose(weights(in_peace), weights(alone), atol=1e-6)

    # One that is not the chief, then the chief, which writes the checkpoints.
    for victim in (1, 0):
        known = set(killed.glob("checkpoints/step-*.npz"))
        workers = start_workers(killed)

        def has_saved(known=known):
            return {*killed.glob("checkpoints/step-*.npz")} - known

        workers[0].wait_until(has_saved)
        workers[victim].kill()
        workers[victim].communicate()
        code, _, errors = end(workers[1 - victim])
        assert code == 75
        last = errors.splitlines()[-1]
        assert last.startswith("train.py: Another worker is")
        assert not (killed / "results.json").exists()

    assert [end(worker)[0] for worker in start_workers(killed)] == [0, 0]
    assert contents(killed) == contents(in_peace)
