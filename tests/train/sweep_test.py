"""train.py --sweep, once, with real runs."""

import json

import pytest

from tests.helpers.processes import Program

pytestmark = pytest.mark.slow


def test_train_sweeps(tmp_path):
    program = Program(
        "train.py",
        f"--workdir={tmp_path}",
        "--config.epochs=1",
        "--config.ell=1",
        "--config.num_examples=256",
        "--config.measure_noise=False",
        "--config.model.hidden_units=(8,)",
        "--config.scale_lr=linear",
        "--sweep=optimizer=sgd,ngd",
        "--sweep=batch_size=64",
        "--jobs=2",
    )
    printed = program.communicate()
    assert program.returncode == 0, printed
    for optimizer in ("sgd", "ngd"):
        folder = tmp_path / f"optimizer={optimizer},batch_size=64"
        assert (folder / "results.json").exists()
        config = json.loads((folder / "config.json").read_text())
        assert config["optimizer"] == optimizer
        assert config["batch_size"] == 64
        assert config["learning_rate"] == 0.2 * 64 / 16
