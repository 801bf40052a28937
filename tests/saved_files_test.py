"""Files that an earlier version saved are read: tests/saved/README.md."""

import csv
import json
import shutil

import keras
import numpy as np
import pytest
from packaging.version import Version

import keras_svag  # noqa: F401, for it registers what the files hold.
from experiments.report.runs import find_runs
from tests.helpers.paths import ROOT
from tests.helpers.processes import Program

SAVED = ROOT / "tests" / "saved"
SAVED_BY = Version("3.15")
# Another processor rounds otherwise.
TOLERANCE = 1e-4
FLAGS = (
    "--config=configs/digits.py",
    "--config.ell=4",
    "--config.pairing=independent",
    "--config.weight_decay=5e-3",
    "--config.epochs=6",
    "--config.model.hidden_units=(8,8)",
    "--config.num_examples=160",
    "--config.lsr.window=6",
    "--checkpoint_every=3",
)


@pytest.mark.skipif(
    Version(keras.__version__) < SAVED_BY,
    reason="Keras does not read all that a newer one saves",
)
@pytest.mark.parametrize(
    ("name", "batch_size"),
    [("svag_model", 8), ("plain_model", 8), ("ngd_model", 24)],
)
def test_saved_model_trains_on(name, batch_size):
    arrays = np.load(SAVED / "expected.npz")
    model = keras.saving.load_model(SAVED / f"{name}.keras")
    x, y = arrays["x"], arrays["y"]
    model.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0)
    weights = [v.numpy().ravel() for v in model.trainable_variables]
    np.testing.assert_allclose(
        np.concatenate(weights), arrays[name], rtol=TOLERANCE, atol=1e-6
    )


def history(folder):
    with open(folder / "history.csv", newline="") as file:
        return [
            {key: float(value) for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_killed_run_goes_on_from_its_checkpoint(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(SAVED / "killed", folder)
    before = history(folder)
    done = Program("train.py", f"--workdir={folder}", *FLAGS)
    _, errors = done.communicate()
    assert done.returncode == 0, errors
    after = history(folder)
    # Not trained anew: the epochs before the kill are the file's, to the bit.
    assert after[: len(before)] == before
    for row, expected in zip(after, history(SAVED / "in_peace"), strict=True):
        assert row == pytest.approx(expected, rel=TOLERANCE)
    # The check pools what it saw before the kill with what it saw after.
    check = results(folder)["linear_scaling"]
    expected = results(SAVED / "in_peace")["linear_scaling"]
    assert check["first_epoch"] == 1 and check["last_epoch"] == 6
    # The bound for a run of SVAG was another then.
    for key in ("noise_to_signal", "weight_sq_norm"):
        assert check[key] == pytest.approx(expected[key], rel=TOLERANCE)


def test_finished_run_is_read_by_the_report(tmp_path):
    shutil.copytree(SAVED / "in_peace", tmp_path / "run")
    (run,), unfinished, unusable = find_runs(str(tmp_path))
    assert not unfinished and not unusable
    expected = results(SAVED / "in_peace")["linear_scaling"]["noise_to_signal"]
    assert run.final_window.estimate.noise_to_signal == pytest.approx(expected)
