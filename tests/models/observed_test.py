"""SVAGModel observed by GradientNoiseMonitor: its own pairs, for nothing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_svag import SVAG, GradientNoiseMonitor, SVAGAdam, SVAGModel
from tests.helpers import public_models
from tests.helpers.bits import assert_trains_alike, without_noise
from tests.helpers.pairs import fit, observation, svag_model, weights_of_step
from tests.helpers.public_layers import TensorFlowState, UnseededNoise
from tests.helpers.small_problems import (
    bag_of_words,
    dense_network,
    dtype_policy,
    linear_model,
    network_with_state,
    regression,
)

X, Y = regression(40, num_outputs=1)
RATES, ELL, DECAY = [0.2, 0.1, 0.05], 2, 0.1
slow = pytest.mark.slow


def svag(**arguments):
    """With a rate that changes after each step of the simulated optimizer."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], RATES)
    return SVAG(schedule, ell=ELL, weight_decay=DECAY, **arguments)


def observed(model, *data, every=None, per_layer=False, **arguments):
    """Trains a model on batches of 8; returns the series and the logs."""
    monitor = GradientNoiseMonitor(every, per_layer=per_layer)
    logs = fit(model, *data, callbacks=[monitor], **arguments)
    return monitor.series, logs


class Halving(layers.Layer):
    """Halves a scale at each call, where neither Keras nor we look for it."""

    def __init__(self):
        super().__init__()
        scale = tf.Variable(1.0, trainable=False)
        self.scale = lambda: scale

    def call(self, x, training=False):
        scale = self.scale()
        if training:
            scale.assign(scale / 2)
        return x * (1 + scale)


def of_network():
    model = network_with_state(kernel_regularizer="l2")
    model = svag_model(model, svag(), metrics=["mae"], steps_per_execution=2)
    return model, *regression(43)


def of_sgd_on_the_first_half(first=layers.Identity, **way):
    """Whose second half is computed to be observed, and leaves no trace."""
    inner = network_with_state(
        first(),
        layers.SpectralNormalization(layers.Dense(5)),
        TensorFlowState(),
        UnseededNoise(),
    )
    model = svag_model(inner, SVAG(0.1), metrics=["mae"], **way)
    return model, *regression(43)


def of_script(make_script):
    script = make_script()
    script.model.optimizer = SVAGAdam(0.01, ell=ELL)
    if make_script is public_models.half_precision:
        script.model.optimizer = keras.optimizers.LossScaleOptimizer(
            script.model.optimizer, 8.0
        )
    return SVAGModel(script.model), script.x, script.y


@pytest.mark.parametrize(
    "make",
    [
        of_network,
        lambda: of_sgd_on_the_first_half(Halving),
        lambda: of_sgd_on_the_first_half(run_eagerly=True),
        lambda: of_script(public_models.embeddings),
        pytest.param(
            lambda: of_script(public_models.half_precision), marks=slow
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:SVAG leaves out")
def test_model_trains_as_unobserved(make):
    data = []

    def build_model():
        keras.backend.clear_session()
        model, *data[:] = make()
        return model

    def life(model, monitors):
        logs = fit(model, *data, callbacks=monitors, epochs=2)
        # The last batch is left out.
        assert model.optimizer.iterations == 10
        return without_noise(logs)

    monitor = GradientNoiseMonitor(per_layer=True)
    assert_trains_alike(build_model, life, [monitor])
    assert len(monitor.series) == 10


def halves(*arrays):
    return [[array[half::2] for array in arrays] for half in (0, 1)]


def numpy_observations(model, pairing):
    """Rows of columns, and (G, S) of each layer, of a linear model's run."""
    kernel, bias = (w.astype("float64") for w in model.get_weights())
    rows, of_layers = [], []
    for step in range(len(X) // 8):
        batch, pair = slice(8 * step, 8 * step + 8), []
        for x, y in halves(X[batch], Y[batch]):
            errors = 2 * (x @ kernel + bias - y) / len(x)
            pair.append((x.T @ errors, errors.sum(0)))
        of_layers.append([observation(p, 8) for p in zip(*pair, strict=True)])
        g, s = np.sum(of_layers[-1], 0)
        rate = RATES[min(step // ELL, 2)]
        norm = np.sum(kernel**2) + np.sum(bias**2)
        rows.append((step + 1, 1, step, rate, 8, norm, g, s))
        w1, w2 = weights_of_step(ELL, pairing, step)
        kernel, bias = (
            v - rate / ELL * (w1 * a + w2 * b + DECAY * v)
            for v, a, b in zip((kernel, bias), *pair, strict=True)
        )
    return np.array(rows), np.array(of_layers)


@pytest.mark.parametrize(
    ("pairing", "way"),
    [
        ("independent", {"jit_compile": False, "steps_per_execution": 5}),
        ("halves", {"run_eagerly": True}),
        pytest.param("independent", {"jit_compile": True}, marks=slow),
    ],
)
def test_every_step_is_observed_as_by_numpy(pairing, way):
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    expected, of_layers = numpy_observations(inner, pairing)
    model = svag_model(inner, svag(pairing=pairing), **way)
    monitor = GradientNoiseMonitor(per_layer=True)
    logs, series = fit(model, X, Y, callbacks=[monitor]), monitor.series
    found = np.array([series[name] for name in series.COLUMNS[:8]]).T
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.isnan(series["preconditioned_grad_sq_norm"]).all()
    paths = tuple(v.path for v in model.trainable_variables)
    assert series.layers == paths
    found = np.stack([series.layer(path) for path in paths], 1)
    np.testing.assert_allclose(found, of_layers, rtol=1e-5, atol=1e-6)
    # The simulated batch is one half, or both.
    assert monitor.batch_size == (4 if pairing == "independent" else 8)
    # The rows of an epoch are drawn without replacement.
    g, s = expected[:, 6:].mean(0)
    noise_scale = (s * 39 / 40) / (g + s / 40)
    assert logs["noise_scale"] == pytest.approx([noise_scale], rel=1e-5)


def halves_gradients(model, x, y):
    """The dense gradients of a batch's two halves, one after the other."""
    pair = []
    for inputs, targets in halves(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(inputs) - targets) ** 2)
        gradients = tape.gradient(loss, model.trainable_weights)
        pair.append([np.asarray(tf.convert_to_tensor(g)) for g in gradients])
    return pair


def sums(pair, scales):
    """(G, S) of a pair whose gradients are multiplied by scales."""
    layers = zip(zip(*pair, strict=True), scales, strict=True)
    return np.sum([observation(p, 8, scale) for p, scale in layers], axis=0)


@pytest.mark.parametrize("make_model", [dense_network, bag_of_words])
def test_noise_in_the_norm_of_adam_is_as_by_numpy(make_model):
    """Also of sparse gradients, of few words that come again and again."""
    inner = make_model()
    # An epsilon that is not small: forgetting it is seen.
    model = svag_model(inner, SVAGAdam(0.02, epsilon=0.03, ell=ELL))
    model.optimizer.build(model.trainable_variables)
    x, y = regression(24, num_outputs=inner.output_shape[-1])
    if make_model is bag_of_words:
        x = np.random.default_rng(0).integers(0, 5, (24, 3))
    monitor, expected = GradientNoiseMonitor(), []
    with monitor.watch(model):
        for start in (0, 8, 16):
            batch = slice(start, start + 8)
            pair = halves_gradients(inner, x[batch], y[batch])
            velocities = [v.numpy() for v in model.optimizer._velocities]
            scales = [
                (v > 0) / (np.sqrt(v) + 0.03 * ELL**0.5) for v in velocities
            ]
            plain = sums(pair, [np.ones(v.shape) for v in velocities])
            expected.append([*plain, *sums(pair, scales)])
            model.train_on_batch(x[batch], y[batch])
    names = monitor.series.COLUMNS[6:10]
    found = np.array([monitor.series[name] for name in names]).T
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found[0, 2:].tolist() == [0, 0] and np.all(found[1:, 3] > 0)


def half_precision(initial_scale):
    with dtype_policy("mixed_float16"):
        inner = linear_model(4)
    optimizer = SVAG(0.01, ell=2)
    return svag_model(
        inner, keras.optimizers.LossScaleOptimizer(optimizer, initial_scale)
    )


def test_noise_is_free_of_the_loss_scale():
    pair = halves_gradients(linear_model(4), X[:8], Y[:8])
    series, _ = observed(half_precision(64.0), X[:8], Y[:8], per_layer=True)
    found = [series[name][0] for name in series.COLUMNS[6:8]]
    # The one variable has all of it.
    for moments in (found, series.layer(*series.layers)[0]):
        np.testing.assert_allclose(moments, sums(pair, [1.0]), rtol=0.02)


def test_steps_that_overflow_are_observed_and_counted():
    # It is halved at each overflow.
    model = half_precision(2.0**22)
    series, logs = observed(model, *regression(240, num_outputs=1))
    estimate = series.estimate()
    assert len(series) == 30
    assert 0 < estimate.num_skipped < 30
    assert model.optimizer.inner_optimizer.iterations == estimate.count
    assert estimate.count == 30 - estimate.num_skipped
    assert np.isfinite(logs["noise_to_signal"][0])


@pytest.mark.parametrize("every", [None, 1, 3])
def test_rows_are_taken_before_there_is_no_room_for_more(every):
    model = svag_model(linear_model(4), SVAG(0.01, ell=2))
    # One of a row is left out, and so is one smaller than those before.
    sizes = [4] * 300
    sizes[5], sizes[20] = 1, 3
    assert len(sizes) > 2 * model.observe().room
    data = ((X[:size], Y[:size]) for size in [*sizes, *sizes])
    series, _ = observed(
        model, data, every=every, batch_size=None, steps_per_epoch=300, epochs=2
    )
    steps = series["step"].astype(int) - 1
    trained = [step for step in range(600) if sizes[step % 300] == 4]
    assert series["iteration"].tolist() == [trained.index(s) for s in steps]
    assert set(series["rows"]) == {4}
    if every == 3:
        # One of each three, unless that is left out or comes after the end.
        assert len({*steps // 3}) == len(steps) > 190
    else:
        assert steps.tolist() == trained


def test_steps_that_are_not_watched_are_not_observed():
    model = svag_model(linear_model(4), SVAG(0.01, ell=2))

    def stop(batch, logs):
        if batch == 2:
            raise KeyboardInterrupt

    stopping = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
    monitor = GradientNoiseMonitor()
    with pytest.raises(KeyboardInterrupt):
        fit(model, X, Y, callbacks=[monitor, stopping])
    model.train_on_batch(X, Y)
    assert monitor.series["iteration"].tolist() == [0, 1, 2]
    for callbacks in ([monitor], [], [monitor]):
        fit(model, X, Y, callbacks=callbacks)
    model.train_on_batch(X, Y)
    watched = [0, 1, 2, *range(4, 9), *range(14, 19)]
    assert monitor.series["iteration"].tolist() == watched


def test_monitors_share_what_is_observed():
    model = svag_model(dense_network(), SVAG(0.1, ell=2))
    monitors = [
        GradientNoiseMonitor(),
        GradientNoiseMonitor(per_layer=True),
        GradientNoiseMonitor(every=2),
    ]
    fit(model, *regression(40), callbacks=monitors)
    each, of_layers, sampled = (monitor.series for monitor in monitors)
    assert len(each) == len(of_layers) == 5 and 2 <= len(sampled) <= 3
    places = sampled["iteration"].astype(int)
    for name in ("iteration", "grad_sq_norm", "example_noise"):
        np.testing.assert_array_equal(of_layers[name], each[name])
        np.testing.assert_array_equal(sampled[name], each[name][places])
    shares = sum(of_layers.layer(path) for path in of_layers.layers)
    np.testing.assert_allclose(shares[:, 0], each["grad_sq_norm"], rtol=1e-5)
