"""The script over two workers: as one device, killed, and started again."""

import time
import zipfile

import h5py
import numpy as np
import pytest

from tests.helpers.processes import Program
from tests.helpers.workers.processes import free_addresses, start

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
    arguments = (
        "train",
        *ARGUMENTS,
        f"--workdir={workdir}",
        "--strategy=multi_worker",
    )
    return [start(index, addresses, *arguments) for index in range(2)]


def end(process):
    output, errors = process.communicate()
    assert "Traceback" not in errors, errors[-3000:]
    return process.returncode, output, errors


def weights(workdir):
    with zipfile.ZipFile(workdir / "model.keras") as archive:
        with archive.open("model.weights.h5") as file, h5py.File(file) as saved:
            found = []
            saved.visititems(
                lambda _, item: (
                    found.append(item[()].ravel())
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
    return np.concatenate(found)


def files(workdir):
    names = ("history.csv", "results.json")
    return [(workdir / name).read_bytes() for name in names]


def saved(workdir):
    return set(workdir.glob("checkpoints/step-*.npz"))


def test_two_workers_train_as_one_device_and_outlive_a_kill(tmp_path):
    in_peace, killed = tmp_path / "in_peace", tmp_path / "killed"
    alone = tmp_path / "alone"
    ends = [end(worker) for worker in start_workers(in_peace)]
    assert [code for code, *_ in ends] == [0, 0], ends
    assert "test accuracy" in ends[0][1]
    assert "test accuracy" not in ends[1][1]
    process = Program("train", *ARGUMENTS, f"--workdir={alone}")
    assert end(process)[0] == 0
    np.testing.assert_allclose(weights(in_peace), weights(alone), atol=1e-6)

    # One that is not the chief, then the chief, which writes the checkpoints.
    for victim in (1, 0):
        known = saved(killed)
        workers = start_workers(killed)
        for _ in range(3000):
            if saved(killed) - known:
                break
            time.sleep(0.02)
        workers[victim].kill()
        workers[victim].communicate()
        code, _, errors = end(workers[1 - victim])
        assert code == 75
        last = errors.splitlines()[-1]
        assert last.startswith("train.py: Another worker is")
        assert not (killed / "results.json").exists()

    assert [end(w)[0] for w in start_workers(killed)] == [0, 0]
    np.testing.assert_array_equal(weights(killed), weights(in_peace))
    assert files(killed) == files(in_peace)
