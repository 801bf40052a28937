import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag.probe.invariance import is_scale_invariant
from keras_svag.probe.measurement import measure_gradient_noise
from tests.helpers import public_layers, public_models
from tests.helpers.bits import assert_same_bits, bits_of
from tests.helpers.refusals import check_sentence
from tests.helpers.small_problems import (
    compiled,
    dense_network,
    dtype_policy,
    over_all_pairs,
)

WEIGHT = 0.1


def regression(rows=60, features=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)).astype("float32")
    y = x @ rng.normal(size=(features, 1)) + rng.normal(size=(rows, 1))
    return x, y.astype("float32")


def batches_of(x, y, size=6):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def linear_model(loss="mse", **kwargs):
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(1, use_bias=False)]
    )
    model.layers[0].set_weights([np.full((5, 1), WEIGHT, "float32")])
    model.compile("sgd", loss, **kwargs)
    return model


def example_gradients(x, y):
    """Those of the linear model's squared error."""
    x, y = x.astype("float64"), y.astype("float64")
    return 2 * (x @ np.full((5, 1), WEIGHT) - y) * x


def moments(estimate):
    return estimate.grad_sq_norm, estimate.example_noise


def measure(model, data, batch_size=None, num_batches=30, **kwargs):
    kwargs = {"seed": 0, "verbose": 0, **kwargs}
    return measure_gradient_noise(
        model, data, batch_size, num_batches, **kwargs
    )


def test_linear_regression_has_its_known_noise():
    x, y = regression()
    gradients = example_gradients(x, y)
    mean = gradients.mean(0)
    g, s = mean @ mean, np.sum((gradients - mean) ** 2) / len(x)
    estimate = measure(linear_model(), (x, y), 8, 400)
    assert (estimate.count, estimate.batch_size) == (400, 8)
    assert estimate.degrees_of_freedom == 400 // 3
    assert (estimate.sampling, estimate.num_examples) == ("independent", 60)
    assert abs(estimate.grad_sq_norm - g) < 3.5 * estimate.grad_sq_norm_se
    # The errors are small enough to tell S from that of other divisors.
    assert abs(estimate.example_noise - s) < 3.5 * estimate.example_noise_se
    assert estimate.example_noise_se < 0.06 * s
    low, high = estimate.interval()
    assert low < s / 8 / g < high < 1.5 * s / 8 / g


def test_estimate_is_that_over_all_pairs_of_the_batches():
    keras.utils.set_random_seed(1)
    penalty = keras.regularizers.L2(0.3)
    hidden = keras.layers.Dense(4, "tanh", kernel_regularizer=penalty)
    inner = [keras.Input((5,)), hidden, keras.layers.Dense(1)]
    model = keras.Sequential(inner)
    model.compile("sgd", "mse")
    batches = batches_of(*regression())
    gradients = []
    for x, y in batches:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x) - y) ** 2)
            loss += 0.3 * tf.reduce_sum(hidden.kernel**2)
        parts = tape.gradient(loss, model.trainable_weights)
        gradients.append([np.ravel(part) for part in parts])
    estimate = measure(model, batches, per_layer=True)
    assert (estimate.count, estimate.batch_size) == (10, 6)
    whole = np.array([np.concatenate(parts) for parts in gradients], "float64")
    expected = over_all_pairs(whole, 6)
    np.testing.assert_allclose(moments(estimate), expected, rtol=1e-4)
    paths = [v.path for v in model.trainable_weights]
    assert list(estimate.per_layer) == paths
    for index, layer in enumerate(estimate.per_layer.values()):
        own = np.array([parts[index] for parts in gradients], "float64")
        expected = over_all_pairs(own, 6)
        np.testing.assert_allclose(moments(layer), expected, rtol=1e-4)
    assert measure(model, batches).per_layer is None


def test_seed_is_that_of_the_draws():
    data, model = regression(), linear_model()
    drawn = [measure(model, data, 8, 5, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert measure(model, data, 8, 5, seed=None) != measure(
        model, data, 8, 5, seed=None
    )


@pytest.mark.parametrize("name", ["Adam", "RMSprop"])
def test_preconditioned_gradients_are_those_over_the_root(name):
    x, y = regression()
    model = linear_model()
    # An epsilon that is not small: forgetting it is seen.
    optimizer = getattr(keras.optimizers, name)(0.0, epsilon=0.5)
    model.compile(optimizer, "mse")
    with pytest.raises(ValueError, match="train first"):
        measure(model, batches_of(x, y), preconditioned=True)
    model.fit(x, y, epochs=2, verbose=0)
    v = np.ravel(optimizer._velocities[0]).astype("float64")
    root = np.sqrt(v + 0.5) if name == "RMSprop" else np.sqrt(v) + 0.5
    gradients = [example_gradients(*b).mean(0) for b in batches_of(x, y)]
    estimate = measure(model, batches_of(x, y), preconditioned=True)
    expected = over_all_pairs(gradients / root, 6)
    np.testing.assert_allclose(moments(estimate), expected, rtol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        public_models.convolutions,
        public_models.layers_with_state,
        pytest.param(
            public_models.noise_without_a_seed, marks=pytest.mark.slow
        ),
        pytest.param(public_models.named_targets, marks=pytest.mark.slow),
    ],
)
def test_training_goes_on_as_if_nothing_had_been_measured(make):
    left = []
    for is_measured in (False, True):
        keras.utils.set_random_seed(0)
        script = make()
        for _ in range(2):
            if is_measured:
                data = script.x, script.y
                count = measure(script.model, data, 8, 3, seed=None).count
                assert count == 3
            script.model.fit(script.x, script.y, batch_size=8, verbose=0)
        draw = float(tf.random.normal(()))
        left.append((bits_of(script.model), draw, len(script.model.losses)))
    assert_same_bits(*left)


def behind(*layers):
    """The linear model behind other layers."""
    model = keras.Sequential([keras.Input((5,)), *layers, linear_model()])
    model.compile("sgd", "mse", run_eagerly=True)
    return model


def test_state_is_restored_when_interrupted():
    x, y = regression()
    breaking = public_layers.Breaking()
    states = keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)
    model = behind(*states, breaking)
    model.train_on_batch(x[:8], y[:8])
    before = [v.numpy() for v in model.variables]
    breaking.countdown = 4
    with pytest.raises(KeyboardInterrupt):
        measure(model, (x, y), 8)
    assert breaking.countdown == 0
    assert_same_bits([v.numpy() for v in model.variables], before)


@pytest.mark.parametrize(
    ("layer", "is_random"),
    [
        (keras.layers.Dropout(0.5), True),
        (public_layers.UnseededNoise(), True),
        # Assigns its weights when it is called.
        (keras.layers.SpectralNormalization(keras.layers.Dense(5)), False),
    ],
)
def test_noise_of_equal_batches_is_that_of_the_random_draws(layer, is_random):
    batch = [part[:6] for part in regression()]
    estimate = measure(behind(layer), [batch] * 10)
    assert estimate.grad_sq_norm > 0
    assert (estimate.noise_to_signal > 1e-3) == is_random
    assert is_random or estimate.noise_to_signal < 1e-6


def test_batch_normalization_is_in_training_mode():
    model = behind(keras.layers.BatchNormalization())
    expected = measure(model, regression(), 8)
    model.layers[0].moving_mean.assign(np.full(5, 100.0))
    model.layers[0].moving_variance.assign(np.full(5, 1e4))
    assert measure(model, regression(), 8) == expected
    with pytest.raises(ValueError, match="at least 2 rows"):
        measure(model, regression(), 1)
    model.layers[0].trainable = False
    assert measure(model, regression(), 1).count == 30


def test_given_loss_replaces_the_compiled_one():
    data = regression()
    expected = measure(linear_model(), data, 8)
    uncompiled = keras.Sequential(linear_model().layers)
    assert measure(uncompiled, data, 8, loss="mse") == expected
    assert measure(linear_model("mae"), data, 8, loss="mse") == expected
    with pytest.raises(ValueError, match="not compiled; give `loss`"):
        measure(uncompiled, data, 8)


def test_sample_weights_count():
    x, y = regression()
    double = measure(linear_model(), (x, y, np.full(60, 2.0)), 8)
    single = measure(linear_model(), (x, y), 8)
    np.testing.assert_allclose(double.example_noise, 4 * single.example_noise)


def test_noise_and_its_errors_are_those_of_one_example():
    batches = batches_of(*regression())
    twice = [tuple(np.repeat(a, 2, axis=0) for a in batch) for batch in batches]
    one, other = (measure(linear_model(), data) for data in (batches, twice))
    assert other.grad_sq_norm == pytest.approx(one.grad_sq_norm)
    for name in ("example_noise", "example_noise_se", "covariance"):
        expected = 2 * getattr(one, name)
        assert getattr(other, name) == pytest.approx(expected, rel=1e-4)


class SquaredOutputs(keras.Sequential):
    def compute_loss(self, x=None, y=None, y_pred=None, *args, **kwargs):
        return keras.ops.mean(keras.ops.square(y_pred))


def test_inputs_alone_suffice_where_the_loss_needs_no_targets():
    x, y = regression()
    model = SquaredOutputs(linear_model().layers)
    model.compile("sgd", "mse")
    expected = moments(measure(linear_model(), (x, 0 * y), 8))
    assert moments(measure(model, x, 8)) == pytest.approx(expected, rel=1e-5)
    script = public_models.loss_of_a_layer()
    assert measure(script.model, script.x, 8).grad_sq_norm > 0


# In float16 such gradients are 0 unless the loss is scaled, or infinite where
# it is scaled as at the beginning of a training.
@pytest.mark.parametrize("size", [1e-8, 100.0])
def test_mixed_float16_is_unscaled(size):
    data = (*regression(), np.full(60, size))
    estimates = []
    for policy in ("mixed_float16", "float32"):
        with dtype_policy(policy):
            model = dense_network(5, 1)
        estimates.append(measure(compiled(model), data, 8))
    mixed, single = map(moments, estimates)
    assert single[0] > 0 and not estimates[0].num_skipped
    np.testing.assert_allclose(mixed, single, rtol=0.02)


def test_scales_of_float8_are_no_weights():
    script = public_models.float8()
    estimate = measure(script.model, (script.x, script.y), 16, per_layer=True)
    assert len(script.model.trainable_weights) > 4
    names = [path.rsplit("/")[-1] for path in estimate.per_layer]
    assert names == ["kernel", "bias", "kernel", "bias"]
    assert 0 < estimate.noise_to_signal < math.inf


def test_batches_that_are_not_finite_are_left_out_and_counted():
    batches = batches_of(*regression())
    expected = measure(linear_model(), batches[:3] + batches[4:])
    batches[3][1][0] = np.inf
    with pytest.warns(UserWarning, match="1 of 10 batches .* not finite"):
        estimate = measure(linear_model(), batches)
    assert (estimate.num_skipped, estimate.count) == (1, 9)
    assert moments(estimate) == moments(expected)
    nothing = measure(linear_model(), batches[3:4] * 5)
    assert (nothing.num_skipped, nothing.count) == (5, 0)
    assert math.isnan(nothing.grad_sq_norm)
    assert nothing.interval() == (0.0, math.inf)


def test_stops_at_the_relative_error_asked_for():
    def relative_error(e):
        g, s = moments(e)
        # Of log S - log G.
        return math.sqrt(
            (e.grad_sq_norm_se / g) ** 2
            + (e.example_noise_se / s) ** 2
            - 2 * e.covariance / (g * s)
        )

    data, model = regression(), linear_model()
    estimate = measure(model, data, 8, 500, rtol=0.07)
    assert 20 < estimate.count < 400
    assert relative_error(estimate) <= 0.07
    one_less = measure(model, data, 8, estimate.count - 1)
    assert relative_error(one_less) > 0.07
    assert measure(model, data, 8, 500, rtol=9.0).count == 20
    assert measure(model, data, 8, 9, rtol=9.0).count == 9


def test_says_what_it_took(capsys):
    measure(linear_model(), regression(), 8, verbose=2)
    printed = capsys.readouterr().out
    assert "30/30" in printed
    assert "at batch size 8, from 30 batches" in printed
    measure(linear_model(), batches_of(*regression()), verbose=1)
    assert "from 10 batches" in capsys.readouterr().out
    measure(linear_model(), regression(), 8, verbose=0)
    assert capsys.readouterr().out == ""


def test_a_model_without_call_is_told_what_can_be_done():
    script = public_models.adversaries()
    for call in (
        lambda: measure(script.model, (script.x, script.x), 8),
        lambda: is_scale_invariant(script.model, script.x),
    ):
        with pytest.raises(ValueError) as raised:
            call()
        check_sentence(str(raised.value), "must have a `call`", "Adversaries")


def test_a_label_out_of_range_is_one_sentence():
    model = linear_model()
    model.compile(loss="sparse_categorical_crossentropy")
    x, _ = regression()
    with pytest.raises(ValueError) as raised:
        measure(model, (x, np.full(len(x), 7)))
    check_sentence(
        str(raised.value),
        "`data` must have batches of which the loss can be computed",
        "(Received a label value of 7 which is outside the valid range",
    )
    assert raised.value.__suppress_context__


def frozen_model():
    model = linear_model()
    model.trainable = False
    return model


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"preconditioned": True}, "`preconditioned` must be False, unless"),
        ({"model": linear_model(loss=None)}, "No loss"),
        ({"data": regression()[0]}, "must have targets y"),
        ({"model": frozen_model()}, "no trainable weights"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, sentence):
    arguments = {"model": linear_model(), "data": regression(), **arguments}
    with pytest.raises(ValueError, match=sentence) as raised:
        measure(**arguments)
    assert "\n" not in str(raised.value)


def test_without_targets_a_given_loss_is_one_of_the_inputs():
    x, _ = regression()
    inputs = keras.Input((5,))
    model = keras.Model(inputs, keras.layers.Dense(5)(inputs))
    model.compile("sgd", "mae")
    alone, pair = (measure(model, data, 8, loss="mse") for data in (x, (x, x)))
    assert alone == pair


def test_many_batches_that_are_left_out_are_counted():
    x, y = regression()
    data = [(x[:rows], y[:rows]) for rows in (8, 6, 8, 6, 6, 6)]
    with pytest.warns(UserWarning, match="4 of 6 batches .* 8 rows"):
        assert measure(linear_model(), data, batch_size=None).count == 2
    alone = measure(linear_model(), data[:1], batch_size=None)
    assert "one batch alone has no noise" in alone.describe()
