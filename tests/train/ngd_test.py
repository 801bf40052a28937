"""train.py trains by noisy gradient descent, on SGD's clock."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

import train
from configs import digits
from experiments import datasets
from experiments.ngd_model import NGDModel
from experiments.run_folder import WorkDir, results_table
from keras_svag.applications import ScaleInvariantMLP

pytestmark = pytest.mark.slow

N, B = 256, 64


def ngd_config(**overrides):
    config = digits.get_config()
    config.update(
        {
            "optimizer": "ngd",
            "measure_noise": False,
            "ell": 1,
            "weight_decay": 5e-3,
            "num_examples": N,
            "batch_size": B,
            "epochs": 4,
            "schedule": "step",
            "milestones": (2,),
            **overrides,
        }
    )
    config.model.hidden_units = (8,)
    return config


def run(tmp_path, name="run", **overrides):
    config = ngd_config(**overrides)
    workdir = WorkDir(str(tmp_path / name), config.to_dict())
    train.train(config, workdir, None, tf.distribute.get_strategy())
    with open(workdir.file("history.csv"), newline="") as file:
        history = list(csv.DictReader(file))
    model = keras.saving.load_model(workdir.file("model.keras"))
    return model.get_weights(), history


@pytest.fixture(scope="module")
def in_one_piece(tmp_path_factory):
    """Weights and history of a run whose passes take all rows at once."""
    return run(tmp_path_factory.mktemp("ngd"))


def column(history, key):
    return [float(row[key]) for row in history]


def test_a_run_is_the_ngd_model_on_the_first_examples(in_one_piece):
    actual, _ = in_one_piece

    data = datasets.load("digits")
    x = (data.train_images[:N] / 16 - data.mean) / data.std
    keras.utils.set_random_seed(0)
    network = ScaleInvariantMLP((8, 8, 1), 10, hidden_units=(8,), seed=0)
    model = NGDModel(network, B, 500, seed=0)
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([7], [0.2, 0.02])
    model.compile(
        keras.optimizers.SGD(rate, weight_decay=5e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    # As many passes as SGD would take steps.
    model.fit(
        x.astype("float32"),
        data.train_labels[:N],
        batch_size=N,
        epochs=4 * (N // B),
        shuffle=False,
        verbose=0,
    )
    for a, e in zip(actual, network.get_weights(), strict=True):
        np.testing.assert_allclose(a, e, atol=1e-5)


def test_its_curves_lie_over_those_of_sgd(in_one_piece, tmp_path):
    _, ngd = in_one_piece
    _, sgd = run(tmp_path, "sgd", optimizer="sgd")
    _, svag = run(tmp_path, "svag", optimizer="svag", ell=2)
    steps = [N // B * epoch for epoch in (1, 2, 3, 4)]
    for history in (ngd, sgd, svag):
        assert column(history, "effective_step") == steps
        assert column(history, "learning_rate") == pytest.approx(
            [0.2, 0.2, 0.02, 0.02]
        )


def test_noise_of_sgd_is_probed_at_its_weights(tmp_path):
    config = ngd_config(measure_noise=True, epochs=2)
    workdir = WorkDir(str(tmp_path / "run"), config.to_dict())
    results = train.train(config, workdir, None, tf.distribute.get_strategy())
    report = results["linear_scaling"]
    noise = report["gradient_noise"]
    assert noise["batch_size"] == B
    assert noise["grad_sq_norm"] > 0 and noise["noise_trace"] > 0
    assert (report["first_epoch"], report["last_epoch"]) == (2, 2)
    assert "noisy_gradient_descent" in report["reasons"]
    assert not any("scale_inv" in reason for reason in report["reasons"])
    assert report["text"] in results_table(results)

    plain, _ = run(tmp_path, "plain", epochs=2)
    model = keras.saving.load_model(workdir.file("model.keras"))
    for a, e in zip(model.get_weights(), plain, strict=True):
        np.testing.assert_array_equal(a, e)
