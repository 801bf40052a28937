"""train.py trains by noisy gradient descent, on SGD's clock."""

import keras
import numpy as np
import pandas
import pytest

from experiments import datasets
from experiments.ngd_model import NGDModel
from experiments.run_folder import results_table
from keras_svag.applications import ScaleInvariantMLP
from tests.helpers.small_runs import run, small_config, weights

pytestmark = pytest.mark.slow

N, B = 256, 64


def ngd_config(**keys):
    ngd = {
        "optimizer": "ngd",
        "measure_noise": False,
        "ell": 1,
        "learning_rate": 0.2,
        "weight_decay": 5e-3,
        "num_examples": N,
        "batch_size": B,
        "epochs": 4,
        "schedule": "step",
        "milestones": (2,),
    }
    return small_config(**ngd | keys)


@pytest.fixture(scope="module")
def ngd(tmp_path_factory):
    """A run whose passes take all rows at once."""
    folder = tmp_path_factory.mktemp("ngd") / "run"
    run(folder, ngd_config())
    return folder


def test_a_run_is_the_ngd_model_on_the_first_examples(ngd):
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
    expected = np.concatenate([np.ravel(a) for a in network.get_weights()])
    np.testing.assert_allclose(weights(ngd), expected, atol=1e-5)
    # The clock of SGD's steps, over which its curves lie.
    history = pandas.read_csv(ngd / "history.csv")
    assert history["effective_step"].tolist() == [4, 8, 12, 16]
    rates = history["learning_rate"].tolist()
    assert rates == pytest.approx([0.2, 0.2, 0.02, 0.02])


def test_noise_of_sgd_is_probed_at_its_weights(ngd, tmp_path):
    config = ngd_config(measure_noise=True, lsr={"enabled": True})
    results = run(tmp_path / "run", config)
    report = results["linear_scaling"]
    noise = report["gradient_noise"]
    assert noise["batch_size"] == B
    assert noise["grad_sq_norm"] > 0 and noise["noise_trace"] > 0
    assert report["last_epoch"] == 4
    assert "noisy_gradient_descent" in report["reasons"]
    assert not any("scale_inv" in reason for reason in report["reasons"])
    assert report["text"] in results_table(results)
    np.testing.assert_array_equal(weights(tmp_path / "run"), weights(ngd))
