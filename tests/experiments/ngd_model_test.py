import keras
import numpy as np
import pytest
import tensorflow as tf

from experiments.ngd_model import NGDModel

N, B = 200, 20


def regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 3)).astype("float32")
    y = rng.normal(size=(N, 1)).astype("float32")
    return x, y


def linear_network(initializer="ones"):
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(
                1, use_bias=False, kernel_initializer=initializer
            ),
        ]
    )


def per_example_gradients(x, y, w):
    return 2 * (x @ w - y) * x


def compiled(model, **kwargs):
    model.compile(keras.optimizers.SGD(1.0), loss="mse", **kwargs)
    return model


def noisy_gradients(model, count):
    """Gradients of `count` steps from the same weights, by the real step."""
    batches = tf.data.Dataset.from_tensors(regression()).repeat()
    kernel = model.model.weights[0]
    start = tf.constant(kernel.numpy())
    distributed = iter(batches)

    @tf.function
    def steps():
        gradients = tf.TensorArray(tf.float32, count)
        for index in tf.range(count):
            kernel.value.assign(start)
            model.train_step(next(distributed))
            gradients = gradients.write(index, start - kernel.value)
        return gradients.stack()

    model.train_on_batch(*regression())
    return steps().numpy()[:, :, 0].astype("float64")


def standardized_errors(gradients, expected_mean, expected_covariance):
    """Errors of the mean and of every covariance, in standard errors."""
    count = len(gradients)
    variances = np.diag(expected_covariance)
    mean_errors = (gradients.mean(0) - expected_mean) / np.sqrt(
        variances / count
    )
    covariance_errors = (np.cov(gradients.T) - expected_covariance) / np.sqrt(
        (np.outer(variances, variances) + expected_covariance**2) / count
    )
    return np.abs(mean_errors), np.abs(covariance_errors)


def test_noise_has_the_covariance_of_sgd_with_replacement():
    x, y = regression()
    model = compiled(NGDModel(linear_network(), B, 64, seed=0))
    by_example = per_example_gradients(x, y, np.ones((3, 1)))
    covariance = np.cov(by_example.T, ddof=0) / B
    mean_errors, covariance_errors = standardized_errors(
        noisy_gradients(model, 6000), by_example.mean(0), covariance
    )
    assert mean_errors.max() < 3
    assert covariance_errors.max() < 3


@pytest.mark.parametrize("micro_batch_size", [7, 50, 64, 200, 1000])
def test_gradient_is_that_of_the_weighted_examples(micro_batch_size):
    x, y = regression()
    model = compiled(NGDModel(linear_network(), B, micro_batch_size, seed=3))
    delta = model._example_weights(N, 1).numpy()
    model.train_on_batch(x, y)
    by_example = per_example_gradients(x, y, np.ones((3, 1)))
    expected = 1 - (delta[:, None] * by_example).mean(0)
    np.testing.assert_allclose(
        model.model.get_weights()[0][:, 0], expected, rtol=1e-5
    )
    assert delta.mean() == pytest.approx(1, abs=1e-6)
    assert delta.std() == pytest.approx(np.sqrt(N / B), rel=0.2)


def test_logs_are_those_of_the_loss_without_noise():
    x, y = regression()
    model = compiled(NGDModel(linear_network(), B, 64, seed=0), metrics=["mae"])
    logs = model.train_on_batch(x, y, return_dict=True)
    residual = x @ np.ones((3, 1)) - y
    assert logs["loss"] == pytest.approx((residual**2).mean(), rel=1e-5)
    assert logs["mae"] == pytest.approx(np.abs(residual).mean(), rel=1e-5)


def test_batch_normalization_is_refused():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.BatchNormalization()]
    )
    with pytest.raises(ValueError, match="no BatchNormalization"):
        NGDModel(model, 5, 5, seed=0)
