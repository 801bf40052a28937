import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from experiments.ngd_model import NGDModel, ProbedNoise
from keras_svag import measure_gradient_noise
from tests.helpers.small_problems import dense_network, regression

N, B = 200, 20
X, Y = regression(N, num_inputs=3, num_outputs=1)
KERNEL = np.ones((3, 1))
RESIDUALS = X @ KERNEL - Y
GRADIENTS = 2 * RESIDUALS * X  # Of the examples.


def ngd_model(micro_batch_size=64, seed=0):
    network = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(1, use_bias=False, kernel_initializer="ones"),
        ]
    )
    model = NGDModel(network, B, micro_batch_size, seed)
    model.compile(keras.optimizers.SGD(1.0), loss="mse", metrics=["mae"])
    return model


def noisy_gradients(model, count):
    """Gradients of `count` steps from the same weights, by the real step."""
    batches = iter(tf.data.Dataset.from_tensors((X, Y)).repeat())
    kernel = model.model.weights[0]
    start = tf.constant(kernel.numpy())

    @tf.function
    def steps():
        gradients = tf.TensorArray(tf.float32, count)
        for index in tf.range(count):
            kernel.value.assign(start)
            model.train_step(next(batches))
            gradients = gradients.write(index, start - kernel.value)
        return gradients.stack()

    model.train_on_batch(X, Y)
    return steps().numpy()[:, :, 0].astype("float64")


def test_noise_has_the_covariance_of_sgd_with_replacement():
    count = 6000
    gradients = noisy_gradients(ngd_model(), count)
    covariance = np.cov(GRADIENTS.T, ddof=0) / B
    variances = np.diag(covariance)
    errors = np.sqrt((np.outer(variances, variances) + covariance**2) / count)
    mean_errors = gradients.mean(0) - GRADIENTS.mean(0)
    assert np.all(abs(mean_errors) < 3 * np.sqrt(variances / count))
    assert np.all(abs(np.cov(gradients.T) - covariance) < 3 * errors)


@pytest.mark.parametrize("micro_batch_size", [7, 50, 64, 200, 1000])
def test_gradient_is_that_of_the_weighted_examples(micro_batch_size):
    model = ngd_model(micro_batch_size, seed=3)
    delta = model._example_weights(N, 1).numpy()
    logs = model.train_on_batch(X, Y, return_dict=True)
    expected = KERNEL[:, 0] - (delta[:, None] * GRADIENTS).mean(0)
    np.testing.assert_allclose(
        model.model.get_weights()[0][:, 0], expected, rtol=1e-5
    )
    assert delta.mean() == pytest.approx(1, abs=1e-6)
    assert delta.std() == pytest.approx(np.sqrt(N / B), rel=0.2)
    # Those of the loss without noise.
    assert logs["loss"] == pytest.approx((RESIDUALS**2).mean(), rel=1e-5)
    assert logs["mae"] == pytest.approx(abs(RESIDUALS).mean(), rel=1e-5)


def test_batch_normalization_is_refused():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.BatchNormalization()]
    )
    with pytest.raises(ValueError, match="no BatchNormalization"):
        NGDModel(model, 5, 5, seed=0)


EPOCHS = 3


@pytest.fixture(scope="module")
def probed():
    """A model, its history, the probes and the examples."""
    examples = regression(24)
    model = dense_network()
    model.compile(keras.optimizers.SGD(0.1, weight_decay=1e-2), "mse")
    judged = {"closeness": 2.0, "kappas": (2,), "window": 2}
    probes = ProbedNoise(*examples, 4, judged)
    history = model.fit(
        *examples, batch_size=24, epochs=EPOCHS, callbacks=[probes], verbose=0
    )
    return model, history.history, probes, examples


def test_an_epoch_ends_with_a_probe_of_its_weights(probed):
    model, history, probes, examples = probed
    expected = measure_gradient_noise(
        model, examples, 4, num_batches=32, seed=EPOCHS - 1, verbose=0
    )
    assert probes.estimate() == expected
    norm = sum(np.sum(v.numpy() ** 2) for v in model.trainable_variables)
    last = {name: values[-1] for name, values in history.items()}
    names = ("grad_sq_norm", "noise_trace", "noise_to_signal", "noise_scale")
    assert last == {
        "loss": last["loss"],
        "weight_sq_norm": pytest.approx(norm, rel=1e-6),
        **{name: getattr(expected, name) for name in names},
    }
    assert len(set(history["noise_trace"])) == EPOCHS


def test_the_report_is_on_the_probes_of_its_window(probed):
    _, history, probes, _ = probed
    report = probes.report
    assert (report.first_epoch, report.last_epoch) == (2, 3)
    noise = np.mean(history["noise_trace"][1:])
    assert report.estimate.noise_trace == pytest.approx(noise)
    norm = np.mean(history["weight_sq_norm"][1:])
    assert report.weight_sq_norm == pytest.approx(norm)
    reasons = {reason.code for reason in report.verdict.reasons}
    assert {"noisy_gradient_descent", "not_scale_invariant"} <= reasons


def test_probes_go_on_from_their_state(probed):
    _, _, probes, examples = probed
    state = json.loads(json.dumps(probes.state_dict(), allow_nan=False))
    other = ProbedNoise(*examples, 4)
    other.load_state_dict(state)
    assert other.series == probes.series
    assert other.report is None
