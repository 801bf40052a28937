"""What SVAGModel refuses and warns of, and what it takes from a model."""

import keras
import numpy as np
import pytest

from keras_svag import SVAG, SVAGModel
from tests.helpers.small_problems import dense_network, linear_model, regression


def fit(model, *data, **kwargs):
    kwargs = {"batch_size": 8, "verbose": 0, "shuffle": False, **kwargs}
    return model.fit(*data, **kwargs).history


class OwnTrainStep(keras.Model):
    def train_step(self, data):
        return {}


def test_model_with_its_own_train_step_is_refused():
    with pytest.raises(ValueError, match="`model`.*`train_step`"):
        SVAGModel(OwnTrainStep())


def test_svag_model_of_an_svag_model_is_refused():
    with pytest.raises(ValueError, match="`train_step`"):
        SVAGModel(SVAGModel(dense_network()))


@pytest.mark.parametrize("reduction", ["sum", "mean_with_sample_weight", None])
@pytest.mark.parametrize("nested", [False, True])
def test_loss_that_is_no_mean_is_refused(reduction, nested):
    loss = keras.losses.MeanSquaredError(reduction=reduction)
    model = SVAGModel(dense_network())
    with pytest.raises(ValueError, match="`loss` must be a mean") as error:
        model.compile("sgd", {"a": "mse", "b": [loss]} if nested else loss)
    assert repr(reduction) in str(error.value)
    assert "sum_over_batch_size" in str(error.value)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean"])
def test_loss_that_is_a_mean_is_taken(reduction):
    loss = keras.losses.MeanSquaredError(reduction=reduction)
    model = SVAGModel(dense_network())
    model.compile("sgd", loss)
    assert np.isfinite(fit(model, *regression(8))["loss"][0])


def batch_norm_model():
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.Sequential(
                [keras.layers.BatchNormalization(), keras.layers.Dense(2)]
            ),
        ]
    )


@pytest.mark.parametrize(
    "optimizer, sentence",
    [
        (lambda: SVAG(ell=2, pairing="halves"), "use pairing='independent'"),
        (lambda: "sgd", "ScalingRuleCheck.*leaves training untouched"),
    ],
)
def test_batch_normalization_warns(optimizer, sentence):
    model = SVAGModel(batch_norm_model())
    with pytest.warns(UserWarning, match=sentence):
        model.compile(optimizer(), "mse")


@pytest.mark.parametrize("measure_noise", [False, True])
def test_what_batch_normalization_suits_does_not_warn(recwarn, measure_noise):
    model = SVAGModel(batch_norm_model(), measure_noise=measure_noise)
    model.compile(SVAG(ell=2), "mse")
    if not measure_noise:
        model.compile("sgd", "mse")
    SVAGModel(dense_network()).compile("sgd", "mse")
    assert not [w for w in recwarn if "BatchNorm" in str(w.message)]


def squares(variables):
    return sum(np.sum(v.numpy().astype("float64") ** 2) for v in variables)


@pytest.mark.parametrize(
    "optimizer, decayed",
    [
        (lambda: SVAG(0.0, ell=2, weight_decay=0.1), ["kernel", "bias"]),
        (lambda: SVAG(0.0, ell=2), ["kernel", "bias"]),
        (lambda: keras.optimizers.SGD(0.0), ["kernel", "bias"]),
        (lambda: keras.optimizers.SGD(0.0, weight_decay=0.1), ["kernel"]),
        (lambda: SVAG(0.0, ell=2, weight_decay=0.1), ["kernel"]),
    ],
)
def test_weight_sq_norm_is_over_the_decayed_variables(optimizer, decayed):
    model = dense_network(bias_initializer="ones")
    optimizer = optimizer()
    if decayed == ["kernel"]:
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    wrapped = SVAGModel(model)
    wrapped.compile(optimizer, "mse")
    variables = [v for v in model.trainable_variables if v.name in decayed]
    expected = squares(variables)
    logs = fit(wrapped, *regression(16))
    assert logs["weight_sq_norm"] == pytest.approx([expected], rel=1e-5)


def test_weight_sq_norm_is_the_mean_over_the_steps():
    x, y = regression(24, num_outputs=1)
    model = linear_model(4)
    wrapped = SVAGModel(model)
    wrapped.compile(keras.optimizers.SGD(0.1), "mse")
    norms = []
    for start in (0, 8, 16):
        norms.append(squares(model.trainable_variables))
        rows = slice(start, start + 8)
        wrapped.train_on_batch(x[rows], y[rows])
    fresh = SVAGModel(linear_model(4))
    fresh.compile(keras.optimizers.SGD(0.1), "mse")
    logs = fit(fresh, x, y)
    assert logs["weight_sq_norm"] == pytest.approx([np.mean(norms)], rel=1e-5)


@pytest.fixture
def mixed_float16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("kind", ["svag", "sgd"])
def test_noise_is_free_of_the_loss_scale(mixed_float16, kind):
    x, y = regression(16, num_outputs=1)
    model = linear_model(4)
    keras.config.set_dtype_policy("float32")
    # The policy is the wrapped model's, whatever the global one is.
    wrapped = SVAGModel(model)
    svag = SVAG(0.0, ell=3, pairing="halves")
    sgd = keras.optimizers.SGD(0.0)
    wrapped.compile(svag if kind == "svag" else sgd, "mse")
    assert isinstance(wrapped.optimizer, keras.optimizers.LossScaleOptimizer)
    kernel = model.get_weights()[0]
    g1, g2 = (
        2 * half_x.T @ (half_x @ kernel - half_y) / 8
        for half_x, half_y in ((x[::2], y[::2]), (x[1::2], y[1::2]))
    )
    # The first scale, 2**15, may overflow; it is halved then.
    history = fit(wrapped, x, y, batch_size=16, epochs=4)
    logs = {key: values[-1] for key, values in history.items()}
    assert logs["grad_sq_norm"] == pytest.approx(np.sum(g1 * g2), rel=0.02)
    noise_trace = np.sum((g1 - g2) ** 2) / 4
    assert logs["noise_trace"] == pytest.approx(noise_trace, rel=0.02)
    loss = np.mean((x @ kernel - y) ** 2)
    assert logs["loss"] == pytest.approx(loss, rel=0.02)


def test_steps_that_overflow_are_skipped_and_counted(mixed_float16):
    wrapped = SVAGModel(linear_model(4))
    optimizer = keras.optimizers.LossScaleOptimizer(
        SVAG(0.01, ell=2), initial_scale=2.0**30
    )
    wrapped.compile(optimizer, "mse")
    logs = fit(wrapped, *regression(16 * 20, num_outputs=1), batch_size=16)
    estimate = wrapped.gradient_noise.estimate()
    assert 0 < estimate.num_skipped < 20
    assert estimate.count == 20 - estimate.num_skipped
    assert int(wrapped.optimizer.iterations) == estimate.count
    inner = wrapped.optimizer.inner_optimizer
    assert inner.effective_iterations == estimate.count / 2
    assert float(inner.continuous_time) == pytest.approx(
        0.01 / 2 * estimate.count
    )
    assert np.isfinite(logs["noise_to_signal"][0])


def test_gradients_whose_squares_overflow_are_measured():
    x, y = regression(16, num_outputs=1)
    estimates = []
    for scale in (1.0, 1e20):
        model = linear_model(4)
        model.set_weights([scale * w for w in model.get_weights()])
        wrapped = SVAGModel(model)
        wrapped.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
        logs = fit(wrapped, x, np.float32(scale) * y, batch_size=8)
        assert np.isfinite(logs["grad_sq_norm"][0])
        estimates.append(wrapped.gradient_noise.estimate())
    usual, large = estimates
    assert (large.count, large.num_skipped) == (2, 0)
    for name in ("grad_sq_norm", "noise_trace", "noise_trace_se"):
        expected = 1e40 * getattr(usual, name)
        assert getattr(large, name) == pytest.approx(expected, rel=1e-4)
