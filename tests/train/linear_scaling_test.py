"""train.py runs the check of the linear scaling rule unless told otherwise."""

import json

import pytest
import tensorflow as tf

import train
from configs import digits
from experiments.run_folder import WorkDir, results_table
from keras_svag.noise.estimate import NoiseEstimate

pytestmark = pytest.mark.slow


def run(tmp_path, lsr=None, **overrides):
    config = digits.get_config()
    config.epochs = 2
    config.batch_size = 128
    config.model.hidden_units = (8,)
    config.update(overrides)
    config.lsr.update(lsr or {})
    workdir = WorkDir(str(tmp_path / "run"), config.to_dict())
    return train.train(config, workdir, None, tf.distribute.get_strategy())


def test_report_is_in_the_results_and_in_the_final_table(tmp_path):
    results = run(tmp_path, {"per_layer": True, "kappas": (3,)})
    saved = json.loads((tmp_path / "run" / "results.json").read_text())
    report = saved["linear_scaling"]
    assert report == json.loads(json.dumps(results["linear_scaling"]))
    assert report["batch_size"] == 128
    assert [run["kappa"] for run in report["runs"]] == [3]
    assert (report["first_epoch"], report["last_epoch"]) == (2, 2)
    # One batch of training data tells that the network is scale-invariant.
    assert not any("scale_inv" in reason for reason in report["reasons"])
    assert report["balance"] > 0
    assert report["text"] in results_table(results)
    assert list(report["gradient_noise"]["per_layer"])
    assert (tmp_path / "run" / "gradient_noise").is_dir()


@pytest.mark.parametrize(
    "overrides", [{"lsr": {"enabled": False}}, {"measure_noise": False}]
)
def test_check_can_be_turned_off(tmp_path, overrides):
    results = run(tmp_path, **overrides)
    assert ("gradient_noise" in results) == ("lsr" in overrides)
    assert "linear_scaling" not in results
    assert "linear scaling" not in results_table(results)


def test_table_says_what_was_not_measured():
    one = NoiseEstimate.from_observations([0.1], [24.0], batch_size=8)
    none = NoiseEstimate.from_observations([], [], batch_size=8)
    lines = results_table({"accuracy": 0.5, "gradient_noise": one.to_dict()})
    assert "N = Tr Σ at batch size 8  3\n" in lines and "–" not in lines
    lines = results_table({"accuracy": 0.5, "gradient_noise": none.to_dict()})
    assert lines.count("  –\n") == 3
