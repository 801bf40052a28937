"""What SVAG refuses, and the learning rates that it takes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_svag import SVAG, SVAGModel
from tests.helpers.small_problems import dense_network, interleaved, regression


@pytest.mark.parametrize("rate", [-1.0, float("nan"), "fast"])
def test_bad_learning_rate_is_refused_when_set(rate):
    optimizer = SVAG(0.1)
    with pytest.raises((TypeError, ValueError), match="`learning_rate` must"):
        optimizer.learning_rate = rate
    assert float(optimizer.learning_rate) == pytest.approx(0.1)


def test_defaults_of_keras_are_taken():
    config = SVAG(
        clipnorm=None, use_ema=False, gradient_accumulation_steps=None
    ).get_config()
    assert config["ell"] == 1


def test_exclusion_from_weight_decay_after_build_is_refused():
    optimizer = SVAG(weight_decay=0.1)
    variable = keras.Variable([1.0])
    optimizer.build([variable])
    with pytest.raises(ValueError, match="`exclude_from_weight_decay`.*before"):
        optimizer.exclude_from_weight_decay(var_list=[variable])


def test_names_to_exclude_are_no_regular_expressions():
    with pytest.raises(ValueError, match="`var_names` must be parts of paths"):
        SVAG().exclude_from_weight_decay(var_names=["bias$"])
    # A file can bring one; searched for as such, this one takes years.
    config = SVAG(weight_decay=0.1).get_config()
    config["excluded_from_weight_decay"] = {
        "paths": [],
        "names": ["(a+)+$", "aab"],
        "mask": [],
    }
    optimizer = SVAG.from_config(config)
    variables = [keras.Variable([1.0], name=50 * "a" + end) for end in "!b"]
    optimizer.build(variables)
    assert list(map(optimizer._use_weight_decay, variables)) == [True, False]


@pytest.mark.parametrize(
    "rate",
    [
        1,
        np.float32(1),
        np.int64(1),
        pytest.param(lambda: 1.0, id="callable"),
    ],
)
def test_kinds_of_learning_rates(rate):
    variable = keras.Variable([0.0])
    optimizer = SVAG(rate, ell=4, pairing="halves")
    optimizer.build([variable])
    for _ in range(2):
        optimizer.apply([tf.ones(1)])
    np.testing.assert_allclose(variable.numpy(), [-0.25], rtol=1e-6)
    assert float(optimizer.learning_rate) == 1


@pytest.mark.parametrize("rate", [tf.constant(0.5), keras.Variable(0.5)])
def test_tensor_and_variable_are_learning_rates(rate):
    assert float(SVAG(rate).learning_rate) == 0.5


class CountingSteps(keras.optimizers.schedules.LearningRateSchedule):
    """The step itself as the rate, so that it can be read off."""

    def __call__(self, step):
        return ops.cast(step, "float32")


@pytest.mark.parametrize("within_step", [False, True])
@pytest.mark.parametrize("ell", [1, 3])
def test_schedule_is_given_whole_sgd_steps(ell, within_step):
    variable = keras.Variable([0.0])
    optimizer = SVAG(CountingSteps(), ell=ell, pairing="halves")
    if within_step:
        optimizer.pair_within_step()
    optimizer.build([variable])
    one, rates = [tf.ones(1)], []
    for _ in range(7):
        before = variable.numpy()[0]
        if within_step:
            with optimizer.mixed_gradients():
                optimizer.apply(one)
        else:
            optimizer.apply(one)
            optimizer.apply(one)
        rates.append((before - variable.numpy()[0]) * ell)
    np.testing.assert_allclose(rates, np.arange(7) // ell, atol=1e-5)
    time = np.sum(np.arange(7) // ell) / ell
    assert float(optimizer.continuous_time) == pytest.approx(time)


def callbacks():
    class Seen(keras.callbacks.Callback):
        rates, times = [], []

        def on_epoch_end(self, epoch, logs=None):
            optimizer = self.model.optimizer
            self.rates.append(float(optimizer.learning_rate))
            self.times.append(float(optimizer.continuous_time))

    return Seen()


@pytest.mark.parametrize("within_step", [False, True])
def test_learning_rate_scheduler_sees_and_sets_sgd_s_rate(within_step):
    x, y = regression(24)
    model = dense_network()
    trained = SVAGModel(model) if within_step else model
    trained.compile(SVAG(0.8, ell=4), "mse")
    given = []

    def halved(epoch, rate):
        given.append(rate)
        return rate / 2

    seen = callbacks()
    logs = trained.fit(
        interleaved(x, 6),
        interleaved(y, 6),
        batch_size=12 if within_step else 6,
        epochs=3,
        verbose=0,
        callbacks=[keras.callbacks.LearningRateScheduler(halved), seen],
    ).history
    np.testing.assert_allclose(given, [0.8, 0.4, 0.2], rtol=1e-6)
    np.testing.assert_allclose(seen.rates, [0.4, 0.2, 0.1], rtol=1e-6)
    np.testing.assert_allclose(logs["learning_rate"], seen.rates, rtol=1e-6)
    # Two steps an epoch: not (steps taken) x (first rate).
    times = np.cumsum([2 * 0.4 / 4, 2 * 0.2 / 4, 2 * 0.1 / 4])
    np.testing.assert_allclose(seen.times, times, rtol=1e-6)


def test_reduce_lr_on_plateau_sets_sgd_s_rate():
    x, y = regression(24)
    model = dense_network()
    model.compile(SVAG(0.8, ell=4), "mse")
    plateau = keras.callbacks.ReduceLROnPlateau(
        monitor="loss", factor=0.1, patience=1, min_delta=1e9
    )
    model.fit(x, y, batch_size=6, epochs=3, verbose=0, callbacks=[plateau])
    # The first epoch is the best so far, and the two after it no better.
    assert float(model.optimizer.learning_rate) == pytest.approx(0.008)


def test_optimizer_of_a_plain_model_is_refused_by_svag_model():
    x, y = regression(8)
    model = dense_network()
    optimizer = SVAG(0.1, ell=2)
    model.compile(optimizer, "mse")
    model.fit(x, y, batch_size=4, verbose=0)
    with pytest.raises(ValueError, match="its own SVAG"):
        SVAGModel(model).compile(optimizer, "mse")


def test_optimizer_of_an_svag_model_is_refused_by_a_plain_model():
    x, y = regression(8)
    model = dense_network()
    optimizer = SVAG(0.1, ell=2)
    wrapped = SVAGModel(model)
    wrapped.compile(optimizer, "mse")
    wrapped.fit(x, y, batch_size=4, verbose=0)
    before = model.get_weights()
    model.compile(optimizer, "mse")
    with pytest.raises(ValueError, match="belongs to an SVAGModel"):
        model.fit(x, y, batch_size=4, verbose=0)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # The SVAGModel is none the worse.
    wrapped.fit(x, y, batch_size=4, verbose=0)
