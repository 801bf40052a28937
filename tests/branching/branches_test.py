"""Short trainings at another batch size, and a model that knows nothing."""

import dataclasses
import math
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import SVAG, ScalingRuleCheck, SVAGModel, branch_test
from keras_svag.branching import branches
from keras_svag.branching.branches import _difference
from tests.helpers import public_layers
from tests.helpers.bits import assert_same_bits, bits_of
from tests.helpers.noise_runs import branch
from tests.helpers.small_problems import (
    compiled,
    dense_network,
    linear_model,
    network_with_state,
    regression,
)

X, Y = regression(64)
FEW = {"seeds": 2, "num_batches": 4, "verbose": 0}
DECAY = keras.optimizers.schedules.ExponentialDecay(0.01, 20, 0.7)


class WarmAdam(keras.optimizers.Adam):
    """Has an argument as Keras's `ScheduleFreeAdamW` has it."""

    def __init__(self, *args, warmup_steps=0, **kwargs):
        super().__init__(*args, **kwargs)
        self.warmup_steps = warmup_steps

    def get_config(self):
        return super().get_config() | {"warmup_steps": self.warmup_steps}


MODELS = {
    "a warm-up": (network_with_state, WarmAdam(0.01, warmup_steps=100)),
    "a schedule, averages, gradients that accumulate": (
        network_with_state,
        keras.optimizers.AdamW(
            DECAY, use_ema=True, gradient_accumulation_steps=3
        ),
    ),
    "a loss scale": (
        network_with_state,
        keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
    ),
    # Eager, so that it draws at every step.
    "NumPy's numbers": (
        lambda: network_with_state(public_layers.NumPyNoise()),
        keras.optimizers.SGD(0.1, momentum=0.9),
    ),
    "SVAG": (lambda: SVAGModel(network_with_state()), SVAG(0.1, ell=2)),
    "batches that pair": (network_with_state, SVAG(0.1, ell=2)),
}


def life(make, optimizer, is_eager, is_tested):
    """All that two fits leave behind, with a test between them or without."""
    random.seed(0)
    model = make()
    # One of its own, for an optimizer belongs to one model.
    optimizer = type(optimizer).from_config(optimizer.get_config())
    model.compile(optimizer, "mse", metrics=["mae"], run_eagerly=is_eager)
    settings = {"batch_size": 8, "verbose": 0}
    model.fit(X, Y, epochs=2, **settings)
    kept = model.history, model.train_function, optimizer.get_config()
    if is_tested:
        branch_test(model, (X, Y), 2, examples=32, batch_size=8, **FEW)
    found = model.history, model.train_function, optimizer.get_config()
    assert found == kept
    # In batches of the size that was tried, whose step is traced only now.
    second = model.fit(X, Y, **settings | {"batch_size": 16})
    return bits_of(model), second.history


@pytest.mark.parametrize("name", MODELS)
def test_everything_is_put_back(name):
    lives = [life(*MODELS[name], "NumPy" in name, t) for t in (False, True)]
    assert_same_bits(*lives)


def test_metrics_that_it_builds_have_counted_nothing():
    model = compiled(metrics=["mae"])
    branch_test(model, (X, Y), 2, examples=32, batch_size=8, **FEW)
    assert model.get_metrics_result()["mae"] == 0


def test_an_interrupted_one_puts_everything_back(monkeypatch):
    model = compiled(optimizer=keras.optimizers.Adam(0.01))
    model.fit(X, Y, verbose=0)
    before, config = bits_of(model), model.optimizer.get_config()

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(branches, "_moments", interrupted)
    with pytest.raises(KeyboardInterrupt):
        branch_test(model, (X, Y), 2, examples=64, batch_size=8, verbose=0)
    after = bits_of(model)
    for part in ("model", "optimizer", "metrics"):
        assert_same_bits(after[part], before[part])
    assert model.optimizer.get_config() == config


@pytest.mark.parametrize("kappa", [4, 0.5])
def test_difference_and_ratios_are_those_of_gradient_descent(kappa):
    # All examples are the same one: (w - 1)² is halved in its distance by
    # each step of learning rate η with a factor 1 - 2η.
    rate, steps = 0.05, 8
    model = compiled(linear_model(1), keras.optimizers.SGD(rate))
    model.set_weights([np.array([[3.0]])])
    x = np.ones((64, 1), "float32")
    options = {"examples": steps * 4, "batch_size": 4, "tolerance": 0} | FEW
    test = branch_test(model, (x, x), kappa, validation_data=(x, x), **options)
    distance = 2 * (1 - 2 * rate) ** steps
    scaled = 2 * (1 - 2 * kappa * rate) ** (steps / kappa)
    assert test.loss_before == pytest.approx(4)
    assert test.loss == pytest.approx(distance**2)
    expected = scaled**2 - distance**2
    assert test.difference == pytest.approx([expected] * 3, rel=1e-4)
    assert test.hyperparameters["learning_rate"] == pytest.approx(kappa * rate)
    r, g = ((1 + scaled) / (1 + distance)) ** 2, (scaled / distance) ** 2
    assert test.ratios["weight_sq_norm"] == pytest.approx([r] * 3, rel=1e-4)
    assert test.ratios["grad_sq_norm"] == pytest.approx([g] * 3, rel=1e-4)
    # All of an interval without width is below B's loss, or above.
    verdict = "worse" if expected > 0 else "within tolerance"
    assert (test.verdict, expected > 0) == (verdict, kappa < 1)


def test_interval_covers_seeds_and_held_examples():
    # Effects of the seed, of the part of the held examples and of both: the
    # mean of all possible ones is 0.
    rng = np.random.default_rng(0)
    effects = rng.normal(size=(2000, 3, 1)) + 2 * rng.normal(size=(2000, 1, 16))
    drawn = effects + 0.5 * rng.normal(size=(2000, 3, 16))
    ends = np.array([_difference(one, 0.9)[1:] for one in drawn])
    covered = np.mean((ends[:, 0] <= 0) & (0 <= ends[:, 1]))
    assert 0.9 - 3 * math.sqrt(0.9 * 0.1 / 2000) <= covered <= 0.97


def result(difference):
    """A `BranchTest` of κ = 4 that tolerates 10% of a loss of 2."""
    fields = {"difference": difference, "loss": 2.0, "tolerance": 0.1}
    return dataclasses.replace(branch(4, signal=1.0), **fields)


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        ((0.1, -0.1, 0.2), "within tolerance"),
        ((0.1, -0.1, 0.21), "not told apart"),
        ((0.3, 0.2, 0.4), "not told apart"),
        ((0.3, 0.21, 0.4), "worse"),
        ((-5.0, -6.0, -4.0), "within tolerance"),
        # A loss at κB that is not finite.
        ((math.nan, math.inf, math.inf), "worse"),
    ],
)
def test_verdict_is_by_the_whole_interval(difference, verdict):
    assert result(difference).verdict == verdict


def test_a_result_has_a_sentence():
    worse = result((0.3, 0.21, 0.4))
    assert worse.closeness.high == 1.2
    assert str(worse) == (
        "Batch 512 (×4) is worse after 20,000 examples: loss +0.3 [0.21, 0.4] "
        "against 2 at batch 128, tolerance 0.2 (3 seeds)"
    )


def test_a_loss_that_is_not_finite_is_worse():
    # At κη = 3.6 each step turns the distance around and makes it 6.2 times
    # as large, 26 times.
    model = compiled(linear_model(1), keras.optimizers.SGD(0.9))
    x = np.ones((100, 1), "float32")
    test = branch_test(model, (x, x), 4, examples=26 * 16, batch_size=4, **FEW)
    assert test.verdict == "worse" and "loss is not finite" in str(test)
    assert np.isfinite(model.get_weights()[0]).all()


def test_a_function_makes_the_batches_of_each_size():
    data = tf.data.Dataset.from_tensor_slices((X, Y))
    sizes = []

    def make(batch_size):
        sizes.append(batch_size)
        return data.batch(batch_size).repeat()

    model, held = compiled(), {"validation_data": data.batch(16)}
    options = FEW | {"examples": 128, "batch_size": 8}
    test = branch_test(model, make, 2, **options, **held)
    assert {*sizes} == {8, 16}
    assert test.loss < test.loss_before
    with pytest.raises(ValueError, match="`validation_data` must be the held"):
        branch_test(model, make, 2, **options)
    # Keras ends a training where the data end, and says so in a warning.
    with pytest.raises(ValueError, match="have 128 examples.* 8 batches of 8"):
        branch_test(model, data.batch, 2, **options, **held)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"rule": "square_root"}, "`optimizer` must be one that the r"),
        ({"data": X}, "`data` must have targets y"),
        ({"validation_data": X}, "`validation_data` must have targets y"),
        ({"model": dense_network()}, "must be compiled"),
    ],
)
def test_what_it_refuses(arguments, sentence):
    given = {"model": compiled(), "data": (X, Y), "kappa": 2, "examples": 64}
    with pytest.raises(ValueError, match=sentence):
        branch_test(**given | {"batch_size": 8} | arguments)


def test_a_report_has_what_it_was_asked_to_try():
    model = compiled()
    check = ScalingRuleCheck(every=1, verbose=0)
    model.fit(X, Y, batch_size=4, epochs=2, callbacks=[check], verbose=0)
    options = FEW | {"examples": 16}
    one = check.report.branch_test(model, (X, Y), 4, **options)
    two = one.branch_test(model, (X, Y), 2, **options, tolerance=0.5)
    again = two.branch_test(model, (X, Y), 4, **options, tolerance=0.2)
    # B and the rule are those of the verdict.
    assert [
        (t.kappa, t.tolerance, t.scaled_batch_size) for t in again.branches
    ] == [(2, 0.5, 8), (4, 0.2, 16)]
    direct = branch_test(model, (X, Y), 4, batch_size=4, **options)
    assert one.branches == (direct,)
    assert check.report.branches == () and again.verdict is one.verdict
    with pytest.raises(TypeError, match="`prediction` must be a ClosenessPred"):
        one.branch_test(model, (X, Y), 4, prediction=3, **options)
