"""SVAGModel around every kind of Keras model and input."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_svag import SVAG, SVAGModel
from tests.helpers.small_problems import (
    copy_of,
    dense_network,
    largest_difference,
    regression,
)

BATCH = 8


def fit(model, *data, **kwargs):
    kwargs = {"batch_size": BATCH, "verbose": 0, "shuffle": False, **kwargs}
    return model.fit(*data, **kwargs).history


def check_equal_to_plain(model, data, compiled, copy=copy_of, **kwargs):
    """With ell=1 on halves the model trains and reports as plain SGD does."""
    plain = copy(model)
    plain.compile(keras.optimizers.SGD(0.2), **compiled)
    expected = fit(plain, *data, **kwargs)
    wrapped = SVAGModel(model)
    wrapped.compile(SVAG(0.2, ell=1, pairing="halves"), **compiled)
    history = fit(wrapped, *data, **kwargs)
    assert largest_difference(plain, wrapped) < 1e-5
    assert set(expected) <= set(history)
    for key, values in expected.items():
        np.testing.assert_allclose(history[key], values, rtol=2e-5, err_msg=key)
    arguments = {k: v for k, v in kwargs.items() if k == "sample_weight"}
    ours, theirs = (
        m.evaluate(*data, verbose=0, return_dict=True, **arguments)
        for m in (wrapped, plain)
    )
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, rel=1e-5), key
    return plain, wrapped


def two_inputs(structure):
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    hidden = keras.layers.Concatenate()([a, b])
    outputs = keras.layers.Dense(2, activation="tanh")(hidden)
    inputs = {"a": a, "b": b} if structure == "dict" else (a, b)
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("structure", ["dict", "tuple"])
def test_nested_inputs(structure):
    keras.utils.set_random_seed(0)
    a, y = regression(32)
    b, _ = regression(32, num_inputs=3, seed=1)
    x = {"a": a, "b": b} if structure == "dict" else (a, b)
    plain, wrapped = check_equal_to_plain(
        two_inputs(structure), (x, y), {"loss": "mse"}
    )
    # Outputs of about 1, of which some are nearly 0.
    difference = wrapped.predict(x, verbose=0) - plain.predict(x, verbose=0)
    np.testing.assert_allclose(difference, 0, atol=2e-6)


@pytest.mark.parametrize("weighting", ["sample_weight", "class_weight"])
def test_weights_and_metrics(weighting):
    x, _ = regression(32, num_outputs=1)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (32, 1)).astype("float32")
    weights = {
        "sample_weight": rng.uniform(0, 2, 32).astype("float32"),
        "class_weight": {0: 0.3, 1: 1.7},
    }
    check_equal_to_plain(
        dense_network(num_outputs=1),
        (x, y),
        {
            "loss": keras.losses.BinaryCrossentropy(from_logits=True),
            "metrics": ["mae", keras.metrics.BinaryAccuracy(name="accuracy")],
            "weighted_metrics": ["mse", keras.metrics.AUC(from_logits=True)],
        },
        **{weighting: weights[weighting]},
    )


def test_multiple_outputs_with_losses_by_name():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5, activation="tanh")(inputs)
    outputs = {
        name: keras.layers.Dense(2, name=name)(hidden) for name in ("p", "q")
    }
    x, y = regression(32)
    check_equal_to_plain(
        keras.Model(inputs, outputs),
        (x, {"p": y, "q": -y}),
        {
            "loss": {"p": "mse", "q": keras.losses.Huber()},
            "loss_weights": {"p": 0.3, "q": 2.0},
            "metrics": {"p": ["mae"], "q": ["mse"]},
        },
    )


def test_regularizers_are_part_of_the_loss():
    x, y = regression(32)
    model = dense_network(kernel_regularizer="l2", activity_regularizer=None)
    check_equal_to_plain(model, (x, y), {"loss": "mse"})


@keras.saving.register_keras_serializable(package="training_models_test")
class AddsLoss(keras.layers.Layer):
    def call(self, inputs):
        self.add_loss(0.1 * ops.mean(ops.square(inputs)))
        return inputs


def test_losses_added_in_call():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5),
            AddsLoss(),
            keras.layers.Dense(2),
        ]
    )
    check_equal_to_plain(model, regression(32), {"loss": "mse"})


def sequences(num_rows):
    """Tokens with the same number of padded steps in every row."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 7, (num_rows, 5))
    tokens[:, 3:] = 0
    return tokens, rng.normal(size=(num_rows, 5, 2)).astype("float32")


@pytest.mark.parametrize("kind", ["mask_zero", "Masking"])
def test_masks_reach_losses_and_metrics(kind):
    keras.utils.set_random_seed(0)
    tokens, y = sequences(32)
    if kind == "mask_zero":
        inputs = keras.Input((5,), dtype="int32")
        hidden = keras.layers.Embedding(7, 4, mask_zero=True)(inputs)
        x = tokens
    else:
        inputs = keras.Input((5, 1))
        hidden = keras.layers.Masking()(inputs)
        x = tokens[..., None].astype("float32")
    outputs = keras.layers.Dense(2)(hidden)
    model = keras.Model(inputs, outputs)
    y[:, 3:] = 1e3  # Masked steps would show.
    check_equal_to_plain(
        model,
        (x, y),
        {"loss": "mse", "metrics": ["mae"], "weighted_metrics": ["mse"]},
    )


@keras.saving.register_keras_serializable(package="training_models_test")
class NoTrainingArgument(keras.Model):
    """Subclassed; a loss of its own that the compiled one is a part of."""

    def __init__(self, own_loss=False, **kwargs):
        super().__init__(**kwargs)
        self.own_loss = own_loss
        self.hidden = keras.layers.Dense(5, activation="tanh")
        self.out = keras.layers.Dense(2)

    def call(self, inputs):
        return self.out(self.hidden(inputs))

    def get_config(self):
        return {**super().get_config(), "own_loss": self.own_loss}


@keras.saving.register_keras_serializable(package="training_models_test")
class OwnLoss(NoTrainingArgument):
    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        compiled = super().compute_loss(x, y, y_pred, sample_weight, training)
        return 3 * compiled + 0.1 * ops.mean(ops.square(y_pred))


def subclass_copy(model):
    copy = type(model)()
    copy(np.zeros((1, 4)))
    copy.set_weights(model.get_weights())
    return copy


@pytest.mark.parametrize("model_type", [NoTrainingArgument, OwnLoss])
def test_subclassed_model(model_type):
    keras.utils.set_random_seed(0)
    model = model_type()
    model(np.zeros((1, 4)))
    check_equal_to_plain(
        model, regression(32), {"loss": "mse"}, copy=subclass_copy
    )
