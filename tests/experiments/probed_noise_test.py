import json

import keras
import numpy as np
import pytest

from experiments.ngd_model import ProbedNoise
from keras_svag import measure_gradient_noise
from tests.helpers.small_problems import dense_network, regression

B, EPOCHS = 4, 3
JUDGED = {"closeness": 2.0, "kappas": (2,), "window": 2}


@pytest.fixture(scope="module")
def trained():
    """A model, its history, the probes and the examples."""
    x, y = regression(24)
    model = dense_network()
    model.compile(keras.optimizers.SGD(0.1, weight_decay=1e-2), "mse")
    probed = ProbedNoise(x, y, B, JUDGED)
    history = model.fit(
        x, y, batch_size=24, epochs=EPOCHS, callbacks=[probed], verbose=0
    )
    return model, history.history, probed, (x, y)


def test_an_epoch_ends_with_a_probe_of_its_weights(trained):
    model, history, probed, examples = trained
    expected = measure_gradient_noise(
        model, examples, B, num_batches=32, seed=EPOCHS - 1, verbose=0
    )
    assert probed.estimate() == expected
    norm = sum(np.sum(v.numpy() ** 2) for v in model.trainable_variables)
    last = {name: values[-1] for name, values in history.items()}
    del last["loss"]
    assert last == {
        "grad_sq_norm": expected.grad_sq_norm,
        "noise_trace": expected.noise_trace,
        "noise_to_signal": expected.noise_to_signal,
        "noise_scale": expected.noise_scale,
        "weight_sq_norm": pytest.approx(norm, rel=1e-6),
    }
    assert len(set(history["noise_trace"])) == EPOCHS


def test_the_report_is_on_the_probes_of_its_window(trained):
    _, history, probed, _ = trained
    report = probed.report
    assert (report.first_epoch, report.last_epoch) == (2, 3)
    noise = np.mean(history["noise_trace"][1:])
    assert report.estimate.noise_trace == pytest.approx(noise)
    norm = np.mean(history["weight_sq_norm"][1:])
    assert report.weight_sq_norm == pytest.approx(norm)
    reasons = [reason.code for reason in report.verdict.reasons]
    assert "noisy_gradient_descent" in reasons
    assert "not_scale_invariant" in reasons


def test_it_goes_on_from_its_state(trained):
    model, _, probed, examples = trained
    state = json.loads(json.dumps(probed.state_dict(), allow_nan=False))
    other = ProbedNoise(*examples, B)
    other.set_model(model)
    other.load_state_dict(state)
    assert other.series == probed.series
    assert other.report is None
