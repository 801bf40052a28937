import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag.probe.measurement import measure_gradient_noise
from tests.helpers import public_layers, public_models
from tests.helpers.bits import assert_same_bits, bits_of
from tests.helpers.refusals import check_sentence
from tests.helpers.small_problems import (
    batches_of,
    compiled,
    dense_network,
    dtype_policy,
    linear_model,
    over_all_pairs,
    regression,
    slopes,
)

measure = functools.partial(
    measure_gradient_noise, num_batches=30, seed=0, verbose=0
)


X, Y = regression(60, 5, 1)
BATCHES = batches_of(X, Y, size=6)


def linear(loss="mse", **compilation):
    return compiled(linear_model(5), loss=loss, **compilation)


def behind(*layers):
    """The linear model behind other layers."""
    model = keras.Sequential([keras.Input((5,)), *layers, linear_model(5)])
    return compiled(model, run_eagerly=True)


def moments(estimate):
    return estimate.grad_sq_norm, estimate.example_noise


def test_linear_regression_has_its_known_noise():
    model = linear()
    gradients = slopes(model, X, Y)
    mean = gradients.mean(0)
    g, s = mean @ mean, np.sum((gradients - mean) ** 2) / len(X)
    estimate = measure(model, (X, Y), 8, num_batches=400)
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
    penalty = keras.regularizers.L2(0.3)
    model = compiled(dense_network(5, 1, kernel_regularizer=penalty))
    gradients = []
    for x, y in BATCHES:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x) - y) ** 2)
            loss += 0.3 * tf.reduce_sum(model.layers[0].kernel ** 2)
        parts = tape.gradient(loss, model.trainable_weights)
        gradients.append([np.ravel(part).astype("float64") for part in parts])
    estimate = measure(model, BATCHES, per_layer=True)
    assert (estimate.count, estimate.batch_size) == (10, 6)
    whole = [np.concatenate(parts) for parts in gradients]
    layers = zip(*gradients, strict=True)
    paths = [v.path for v in model.trainable_weights]
    assert list(estimate.per_layer) == paths
    for found, own in zip(
        (estimate, *estimate.per_layer.values()), (whole, *layers), strict=True
    ):
        expected = over_all_pairs(np.array(own), 6)
        np.testing.assert_allclose(moments(found), expected, rtol=1e-4)
    assert measure(model, BATCHES).per_layer is None


def test_seed_is_that_of_the_draws():
    take = functools.partial(measure, linear(), (X, Y), 8, num_batches=5)
    drawn = [take(seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert take(seed=None) != take(seed=None)


def test_preconditioned_gradients_are_those_over_the_root():
    # An epsilon that is not small: forgetting it is seen.
    optimizer = keras.optimizers.Adam(0.0, epsilon=0.5)
    model = linear(optimizer=optimizer)
    with pytest.raises(ValueError, match="train first"):
        measure(model, BATCHES, preconditioned=True)
    model.fit(X, Y, epochs=2, verbose=0)
    v = np.ravel(optimizer._velocities[0]).astype("float64")
    gradients = [slopes(model, *batch).mean(0) for batch in BATCHES]
    estimate = measure(model, BATCHES, preconditioned=True)
    expected = over_all_pairs(gradients / (np.sqrt(v) + 0.5), 6)
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
                counts = {"num_batches": 3, "seed": None}
                data = script.x, script.y
                assert measure(script.model, data, 8, **counts).count == 3
            script.model.fit(script.x, script.y, batch_size=8, verbose=0)
        draw = float(tf.random.normal(()))
        left.append((bits_of(script.model), draw, len(script.model.losses)))
    assert_same_bits(*left)


def test_state_is_restored_when_interrupted():
    breaking = public_layers.Breaking()
    states = keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)
    model = behind(*states, breaking)
    model.train_on_batch(*BATCHES[0])
    before = [v.numpy() for v in model.variables]
    breaking.countdown = 4
    with pytest.raises(KeyboardInterrupt):
        measure(model, (X, Y), 8)
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
    estimate = measure(behind(layer), BATCHES[:1] * 10)
    assert estimate.grad_sq_norm > 0
    assert (estimate.noise_to_signal > 1e-3) == is_random
    assert is_random or estimate.noise_to_signal < 1e-6


def test_batch_normalization_is_in_training_mode():
    model = behind(keras.layers.BatchNormalization())
    expected = measure(model, (X, Y), 8)
    model.layers[0].moving_mean.assign(np.full(5, 100.0))
    model.layers[0].moving_variance.assign(np.full(5, 1e4))
    assert measure(model, (X, Y), 8) == expected
    with pytest.raises(ValueError, match="at least 2 rows"):
        measure(model, (X, Y), 1)
    model.layers[0].trainable = False
    assert measure(model, (X, Y), 1).count == 30


def test_given_loss_replaces_the_compiled_one():
    expected = measure(linear(), (X, Y), 8)
    uncompiled = linear_model(5)
    assert measure(uncompiled, (X, Y), 8, loss="mse") == expected
    assert measure(linear("mae"), (X, Y), 8, loss="mse") == expected
    with pytest.raises(ValueError, match="not compiled; give `loss`"):
        measure(uncompiled, (X, Y), 8)
    # Without targets it is one of the inputs.
    model = compiled(dense_network(5, 5), loss="mae")
    alone, pair = (measure(model, data, 8, loss="mse") for data in (X, (X, X)))
    assert alone == pair


def test_noise_and_its_errors_are_those_of_one_example():
    one = measure(linear(), BATCHES)
    for data, factor in (
        ([tuple(np.repeat(a, 2, axis=0) for a in b) for b in BATCHES], 1),
        # Sample weights count.
        ([(x, y, np.full(6, 2.0)) for x, y in BATCHES], 4),
    ):
        other = measure(linear(), data)
        expected = factor * one.grad_sq_norm
        assert other.grad_sq_norm == pytest.approx(expected)
        for name, power in (
            ("example_noise", 1),
            ("example_noise_se", 1),
            ("covariance", 2),
        ):
            size = other.batch_size / one.batch_size
            expected = size * factor**power * getattr(one, name)
            assert getattr(other, name) == pytest.approx(expected, rel=1e-4)


class SquaredOutputs(keras.Sequential):
    def compute_loss(self, x=None, y=None, y_pred=None, *args, **kwargs):
        return keras.ops.mean(keras.ops.square(y_pred))


def test_inputs_alone_suffice_where_the_loss_needs_no_targets():
    model = compiled(SquaredOutputs(linear_model(5).layers))
    expected = moments(measure(linear(), (X, 0 * Y), 8))
    assert moments(measure(model, X, 8)) == pytest.approx(expected, rel=1e-5)
    script = public_models.loss_of_a_layer()
    assert measure(script.model, script.x, 8).grad_sq_norm > 0


# In float16 such gradients are 0 unless the loss is scaled, or infinite where
# it is scaled as at the beginning of a training.
@pytest.mark.parametrize("size", [1e-8, 100.0])
def test_mixed_float16_is_unscaled(size):
    data, estimates = (X, Y, np.full(60, size)), []
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
    lost = X[:6], np.full((6, 1), np.inf, "float32")
    with pytest.warns(UserWarning, match="1 of 10 batches .* not finite"):
        estimate = measure(linear(), [*BATCHES[:3], lost, *BATCHES[4:]])
    assert (estimate.num_skipped, estimate.count) == (1, 9)
    expected = measure(linear(), BATCHES[:3] + BATCHES[4:])
    assert moments(estimate) == moments(expected)
    nothing = measure(linear(), [lost] * 5)
    assert (nothing.num_skipped, nothing.count) == (5, 0)
    assert math.isnan(nothing.grad_sq_norm)
    assert nothing.interval() == (0.0, math.inf)


def test_batches_of_other_sizes_are_left_out_with_a_warning():
    data = [(X[:rows], Y[:rows]) for rows in (8, 6, 8, 6, 6, 6)]
    with pytest.warns(UserWarning, match="4 of 6 batches .* 8 rows"):
        assert measure(linear(), data).count == 2
    alone = measure(linear(), data[:1])
    assert "one batch alone has no noise" in alone.describe()


def test_stops_at_the_relative_error_asked_for():
    def relative_error(e):
        g, s = moments(e)
        # Of log S - log G.
        return math.sqrt(
            (e.grad_sq_norm_se / g) ** 2
            + (e.example_noise_se / s) ** 2
            - 2 * e.covariance / (g * s)
        )

    take = functools.partial(measure, linear(), (X, Y), 8)
    estimate = take(num_batches=500, rtol=0.07)
    assert 20 < estimate.count < 400
    assert relative_error(estimate) <= 0.07
    assert relative_error(take(num_batches=estimate.count - 1)) > 0.07
    assert take(num_batches=500, rtol=9.0).count == 20
    assert take(num_batches=9, rtol=9.0).count == 9


def test_says_what_it_took(capsys):
    for verbose, fragments in (
        (2, ("30/30", "at batch size 8, from 30 batches")),
        (1, ("from 30 batches",)),
    ):
        measure(linear(), (X, Y), 8, verbose=verbose)
        printed = capsys.readouterr().out
        assert all(fragment in printed for fragment in fragments)
    measure(linear(), (X, Y), 8)
    assert capsys.readouterr().out == ""


def frozen_model():
    model = linear()
    model.trainable = False
    return model


LABELS = "sparse_categorical_crossentropy"


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ({"preconditioned": True}, ["`preconditioned` must be False, unless"]),
        ({"model": linear(loss=None)}, ["No loss"]),
        ({"data": X}, ["must have targets y"]),
        ({"model": frozen_model()}, ["no trainable weights"]),
        (
            {"model": public_models.adversaries().model},
            ["must have a `call`", "Adversaries"],
        ),
        (
            {"model": linear(LABELS), "data": (X, np.full(60, 7))},
            [
                "`data` must have batches of which the loss can be computed",
                "(Received a label value of 7 which is outside the valid range",
            ],
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, fragments):
    with pytest.raises(ValueError) as raised:
        measure(**{"model": linear(), "data": (X, Y)} | arguments)
    check_sentence(str(raised.value), *fragments)
    # What it came from is not shown besides.
    error = raised.value
    assert error.__suppress_context__ or error.__context__ is None
