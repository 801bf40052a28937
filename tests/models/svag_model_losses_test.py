"""Losses that are no mean over the rows: weighed rightly, or said."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, losses, ops

from keras_svag import SVAG, SVAGModel
from tests.helpers.small_problems import largest_difference

RNG = np.random.default_rng(0)
ROWS, LENGTH = 11, 5
X = RNG.normal(size=(ROWS, LENGTH, 2)).astype("float32")
CLASSES = RNG.integers(-1, 3, (ROWS, LENGTH))
YES = RNG.integers(0, 2, (ROWS, LENGTH, 1)).astype("float32")


def tagger(units, activation="softmax"):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((LENGTH, 2)),
            layers.Dense(units, activation=activation),
        ]
    )


def test_halves_weigh_by_the_entries_whose_class_is_not_ignored():
    losses_seen = []
    models = tagger(3), tagger(3)
    for model in (models[0], SVAGModel(models[1])):
        model.compile(
            keras.optimizers.SGD(0.5),
            losses.SparseCategoricalCrossentropy(ignore_class=-1),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            fit = model.fit(X, CLASSES, batch_size=8, verbose=0, shuffle=False)
        losses_seen.append(fit.history["loss"])
    assert largest_difference(*models) < 1e-6
    np.testing.assert_allclose(*losses_seen, rtol=1e-5)


def over_what_counts(y_true, y_pred):
    """A mean over the tokens that are labelled, as of a guide to NER."""
    loss = ops.sum(ops.square(y_true - y_pred) * y_true)
    return loss / ops.maximum(ops.sum(y_true), 1.0)


def against_each_other(y_true, y_pred):
    """Every example is a negative of all others."""
    y_pred = ops.reshape(y_pred, (-1, LENGTH))
    similarities = ops.matmul(y_pred, ops.transpose(y_pred))
    return ops.mean(ops.logsumexp(similarities, axis=1))


def mean_of_all(y_true, y_pred):
    return ops.mean(ops.square(y_true - y_pred))


def trained_eagerly(model, loss, x=X, y=YES, optimizer="sgd"):
    model.compile(optimizer, loss, run_eagerly=True)
    model.train_on_batch(x[:8], keras.tree.map_structure(lambda a: a[:8], y))


@pytest.mark.parametrize(
    "loss",
    [losses.Dice(), losses.Tversky(), over_what_counts, against_each_other],
)
def test_a_loss_that_is_no_mean_over_examples_warns(loss):
    unwrapped, model = (tagger(1, "sigmoid") for _ in range(2))
    trained_eagerly(unwrapped, loss)
    with pytest.warns(UserWarning, match="of random examples is no mean"):
        trained_eagerly(SVAGModel(model), loss)
    assert largest_difference(model, unwrapped) > 1e-5


@pytest.mark.parametrize(
    "loss",
    ["mse", "binary_crossentropy", mean_of_all, losses.Dice(axis=(1, 2))],
)
def test_a_mean_over_examples_does_not_warn(loss):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trained_eagerly(SVAGModel(tagger(1, "sigmoid")), loss)


class OwnLoss(keras.Sequential):
    """A tagger whose `compute_loss` is its own, and is counted by a metric."""

    def __init__(self, loss, **dense):
        keras.utils.set_random_seed(0)
        super().__init__(
            [
                keras.Input((LENGTH, 2)),
                layers.Dense(1, activation="sigmoid", **dense),
                layers.Dropout(0.5, seed=0),
            ]
        )
        self.own_loss = loss
        self.calls = keras.metrics.Sum(name="calls")

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        self.calls.update_state(1)
        return self.own_loss(self, x, y, y_pred)


def trained_by_its_own_loss(loss, run_eagerly=True, **dense):
    model = OwnLoss(loss, **dense)
    wrapped = SVAGModel(model)
    wrapped.compile("sgd", run_eagerly=run_eagerly)
    wrapped.train_on_batch(X[:8], YES[:8])
    # Once for each half: what was tried is taken back.
    assert int(model.calls.result()) == 2


@pytest.mark.parametrize("run_eagerly", [True, False])
@pytest.mark.parametrize("loss", [over_what_counts, against_each_other])
def test_an_own_compute_loss_that_is_no_mean_warns(loss, run_eagerly):
    with pytest.warns(UserWarning, match="`compute_loss` of random examples"):
        trained_by_its_own_loss(
            lambda _, x, y, y_pred: loss(y, y_pred), run_eagerly
        )


def a_consistency(model, x, y, y_pred):
    """Compares two draws of the network's dropout."""
    return mean_of_all(model(x, training=True), y_pred)


def for_halves_of_four(_, x, y, y_pred):
    """Cannot take the random examples, which are fewer."""
    return mean_of_all(ops.reshape(y, (4, -1)), ops.reshape(y_pred, (4, -1)))


@pytest.mark.parametrize(
    "loss",
    [
        lambda _, x, y, y_pred: mean_of_all(y, y_pred),
        lambda _, x, y, y_pred: mean_of_all(x[..., :1], y_pred),
        lambda model, x, y, y_pred: mean_of_all(y, y_pred) + sum(model.losses),
        a_consistency,
        for_halves_of_four,
    ],
    ids=["mean", "of inputs", "regularized", "random", "error"],
)
@pytest.mark.parametrize("run_eagerly", [True, False])
def test_an_own_compute_loss_is_not_falsely_accused(loss, run_eagerly):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trained_by_its_own_loss(loss, run_eagerly, kernel_regularizer="l2")


def test_pairs_of_svag_are_no_parts_of_a_batch():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trained_eagerly(
            SVAGModel(tagger(1, "sigmoid")),
            losses.Dice(),
            optimizer=SVAG(0.1, ell=4),
        )


@pytest.mark.parametrize("case", ["outputs", "activity_regularizer"])
def test_masks_that_give_several_means_warn(case):
    tokens = RNG.integers(0, 4, (ROWS, LENGTH))
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(4, 2, mask_zero=True)(inputs)
    if case == "outputs":
        outputs = [layers.Dense(1)(x), layers.Dense(1)(x)]
        y, reason = [YES, YES], "several outputs"
    else:
        outputs = layers.Dense(1, activity_regularizer="l2")(x)
        y, reason = YES, "does not reach the activity regularizer"
    with pytest.warns(UserWarning, match=reason):
        trained_eagerly(
            SVAGModel(keras.Model(inputs, outputs)), "mse", tokens, y
        )


def test_losses_of_several_outputs_are_those_of_the_batches():
    # Without a static size Keras's mean is over the batches.
    inputs = keras.Input((LENGTH, 2))
    histories = []
    for wrap in (lambda model: model, SVAGModel):
        keras.utils.set_random_seed(0)
        outputs = [layers.Dense(1, name=name)(inputs) for name in "ab"]
        model = wrap(keras.Model(inputs, outputs))
        model.compile("sgd", "mse")
        fit = model.fit(
            X, [YES, 1 - YES], batch_size=4, verbose=0, shuffle=False
        )
        histories.append(fit.history)
    for key in ("loss", "a_loss", "b_loss"):
        np.testing.assert_allclose(
            histories[1][key], histories[0][key], rtol=1e-6
        )
