"""train.py --sweep, once, with real runs."""

import json
import os
import subprocess
import sys

import train


def test_train_sweeps(tmp_path):
    command = [
        sys.executable,
        train.__file__,
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
    ]
    process = subprocess.run(
        command,
        cwd=os.path.dirname(train.__file__),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    for optimizer in ("sgd", "ngd"):
        folder = tmp_path / f"optimizer={optimizer},batch_size=64"
        assert (folder / "results.json").exists()
        config = json.loads((folder / "config.json").read_text())
        assert config["optimizer"] == optimizer
        assert config["batch_size"] == 64
        assert config["learning_rate"] == 0.2 * 64 / 16
