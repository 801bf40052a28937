"""The script is interrupted and started again, as a user would."""

import signal
import time
import zipfile

import pytest

from tests.helpers.processes import Program

pytestmark = pytest.mark.slow

ARGUMENTS = (
    "--deterministic",
    "--checkpoint_every=20",
    "--config.epochs=30",
    "--config.batch_size=64",
    "--config.model.hidden_units=(16,)",
)


def start(workdir, *arguments, **environment):
    return Program(
        "train.py", f"--workdir={workdir}", *arguments, **environment
    )


def end(process):
    output, errors = process.communicate()
    assert "Traceback" not in errors, errors
    return process.returncode, output, errors


def contents(workdir):
    with zipfile.ZipFile(workdir / "model.keras") as archive:
        weights = archive.read("model.weights.h5")
    names = ("history.csv", "results.json")
    return weights, *((workdir / name).read_bytes() for name in names)


def interrupt_after_a_checkpoint(process, workdir, number):
    for _ in range(3000):
        if list(workdir.glob("checkpoints/step-*.npz")):
            break
        time.sleep(0.05)
    process.send_signal(number)


def test_interrupted_or_not_and_whatever_the_threads_it_is_the_same(tmp_path):
    in_peace, interrupted = tmp_path / "in_peace", tmp_path / "interrupted"
    code, *_ = end(start(in_peace, *ARGUMENTS, TF_NUM_INTEROP_THREADS="1"))
    assert code == 0

    environment = {"TF_NUM_INTEROP_THREADS": "2"}
    process = start(interrupted, *ARGUMENTS, **environment)
    interrupt_after_a_checkpoint(process, interrupted, signal.SIGTERM)
    code, _, errors = end(process)
    assert code == 143
    assert "train.py: interrupted by SIGTERM: the same command goes" in errors
    assert not (interrupted / "results.json").exists()
    # Events that are torn or somebody else's are neither read nor changed.
    events = list(interrupted.glob("*/events.out.tfevents.*"))
    events[0].write_bytes(events[0].read_bytes()[:-5])
    events.append(events[0].with_name("events.out.tfevents.1.hers"))
    events[-1].write_bytes(b"hers")
    before = [path.read_bytes() for path in events]

    # Checkpoints of another interval must not change a bit either.
    arguments = (*ARGUMENTS, "--checkpoint_every=1")
    code, _, errors = end(start(interrupted, *arguments, **environment))
    assert code == 0, errors
    assert "not to the bit" not in errors
    assert contents(interrupted) == contents(in_peace)
    assert [path.read_bytes() for path in events] == before
    assert not (interrupted / "checkpoints").exists()
