"""SVAGModel around every kind of Keras model and input."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from small_problems import (
    copy_of,
    dense_network,
    interleaved,
    largest_difference,
    regression,
)

from keras_svag import SVAG, SVAGModel

BATCH = 8


def fit(model, *data, **kwargs):
    kwargs = {"batch_size": BATCH, "verbose": 0, "shuffle": False, **kwargs}
    return model.fit(*data, **kwargs).history


def check_equal_to_plain(model, data, compiled, copy=copy_of, **kwargs):
    """With SGD, the wrapped model trains and reports as the plain one."""
    plain = copy(model)
    plain.compile(keras.optimizers.SGD(0.2), **compiled)
    expected = fit(plain, *data, **kwargs)
    wrapped = SVAGModel(model)
    wrapped.compile(keras.optimizers.SGD(0.2), **compiled)
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
    np.testing.assert_allclose(
        wrapped.predict(x, verbose=0), plain.predict(x, verbose=0), rtol=1e-5
    )


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


@pytest.mark.parametrize("optimizer", ["sgd", "svag"])
@pytest.mark.parametrize("kind", ["sequential", "subclassed"])
def test_model_that_is_not_built_yet(kind, optimizer):
    x, y = regression(32)
    logs = []
    for build_first in (True, False):
        keras.utils.set_random_seed(0)
        if kind == "subclassed":
            model = NoTrainingArgument()
        else:
            model = keras.Sequential(
                [keras.layers.Dense(5), keras.layers.Dense(2)]
            )
        if build_first:
            model(x)
        wrapped = SVAGModel(model, per_layer=True)
        svag = SVAG(0.1, ell=2, weight_decay=0.1)
        wrapped.compile(svag if optimizer == "svag" else "sgd", "mse")
        logs.append(fit(wrapped, x, y))
        assert len(wrapped.gradient_noise.estimate().per_layer) == 4
    assert logs[0].keys() == logs[1].keys()
    assert np.all(np.isfinite(list(logs[1].values())))


def test_per_layer_moments_add_up_to_the_total():
    wrapped = SVAGModel(dense_network(), per_layer=True)
    wrapped.compile(SVAG(0.1, ell=2), "mse")
    fit(wrapped, *regression(32))
    estimate = wrapped.gradient_noise.estimate()
    assert list(estimate.per_layer) == [
        v.path for v in wrapped.trainable_variables
    ]
    for moment in ("grad_sq_norm", "noise_trace"):
        layers = [getattr(e, moment) for e in estimate.per_layer.values()]
        assert sum(layers) == pytest.approx(getattr(estimate, moment), rel=1e-6)


def test_layers_that_are_frozen_later_are_not_measured():
    model = dense_network()
    wrapped = SVAGModel(model, per_layer=True)
    wrapped.compile(SVAG(0.1, ell=2), "mse")
    fit(wrapped, *regression(32))
    model.layers[0].trainable = False
    wrapped.compile(SVAG(0.1, ell=2), "mse")
    fit(wrapped, *regression(32))
    assert list(wrapped.gradient_noise.estimate().per_layer) == [
        v.path for v in model.layers[1].trainable_variables
    ]


def test_validation_within_fit_keeps_the_noise_and_has_no_twins():
    x, y = regression(32)
    logs = []
    for validation in (None, regression(16, seed=1)):
        wrapped = SVAGModel(dense_network())
        wrapped.compile(SVAG(0.1, ell=2), "mse", metrics=["mae"])
        logs.append(fit(wrapped, x, y, epochs=2, validation_data=validation))
    without, with_validation = logs
    validated = {key for key in with_validation if key.startswith("val_")}
    assert validated == {"val_loss", "val_mae"}
    for key, values in without.items():
        assert with_validation[key] == values, key


def test_evaluation_has_no_noise_metrics():
    x, y = regression(16)
    wrapped = SVAGModel(dense_network())
    wrapped.compile(SVAG(0.1, ell=2), "mse", metrics=["mae"])
    fit(wrapped, x, y)
    for logs in (
        wrapped.evaluate(x, y, verbose=0, return_dict=True),
        wrapped.test_on_batch(x, y, return_dict=True),
    ):
        assert set(logs) == {"loss", "mae"}
    assert "noise_trace" in wrapped.get_metrics_result()


def test_train_on_batch_is_fit():
    x, y = regression(32)
    by_fit, by_batch = (SVAGModel(dense_network()) for _ in range(2))
    for wrapped in (by_fit, by_batch):
        wrapped.compile(SVAG(0.1, ell=2), "mse")
    history = fit(by_fit, x, y)
    noise_traces = []
    for start in range(0, 32, BATCH):
        rows = slice(start, start + BATCH)
        logs = by_batch.train_on_batch(x[rows], y[rows], return_dict=True)
        noise_traces.append(logs["noise_trace"])
    assert largest_difference(by_fit, by_batch) == 0
    assert history["noise_trace"] == pytest.approx([np.mean(noise_traces)])
    # Another size must not make the number of rows unknown.
    by_batch.train_on_batch(x[:4], y[:4])
    by_batch.train_on_batch(x[:12], y[:12])


def test_several_steps_per_execution():
    x, y = regression(64)
    runs = []
    for steps in (1, 4):
        wrapped = SVAGModel(dense_network())
        wrapped.compile(SVAG(0.1, ell=2), "mse", steps_per_execution=steps)
        runs.append((wrapped, fit(wrapped, x, y)))
    (one, one_logs), (four, four_logs) = runs
    assert largest_difference(one, four) < 1e-6
    assert four_logs["noise_trace"] == pytest.approx(one_logs["noise_trace"])


def test_another_batch_size_in_a_later_fit():
    x, y = regression(48)
    wrapped = SVAGModel(dense_network())
    wrapped.compile(SVAG(0.1, ell=2), "mse")
    for batch_size in (8, 16, 12, 8):
        fit(wrapped, x, y, batch_size=batch_size)
        size = wrapped.gradient_noise.estimate().batch_size
        assert size == batch_size // 2
    for batch_size in (8, 24):
        data = tf.data.Dataset.from_tensor_slices((x, y))
        wrapped.fit(data.batch(batch_size, drop_remainder=True), verbose=0)


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("kind", ["sequential", "subclassed"])
def test_loaded_model_trains_on_exactly(tmp_path, kind, per_layer):
    x, y = regression(64)
    keras.utils.set_random_seed(0)
    model = dense_network() if kind == "sequential" else OwnLoss()
    wrapped = SVAGModel(model, per_layer=per_layer, num_examples=64)
    optimizer = SVAG(
        keras.optimizers.schedules.CosineDecay(0.5, 10),
        ell=2,
        weight_decay=0.1,
    )
    wrapped.compile(optimizer, "mse", metrics=["mae"])
    fit(wrapped, x[:32], y[:32])
    wrapped.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for argument in ("measure_noise", "per_layer", "num_examples", "sampling"):
        assert getattr(loaded, argument) == getattr(wrapped, argument)
    np.testing.assert_array_equal(loaded(x), wrapped(x))
    histories = [fit(m, x[32:], y[32:]) for m in (wrapped, loaded)]
    assert histories[0] == histories[1]
    assert largest_difference(wrapped, loaded) == 0
    assert loaded.optimizer.effective_iterations == 8 / 2
    inner = tmp_path / "inner.keras"
    loaded.model.save(inner)
    np.testing.assert_array_equal(keras.saving.load_model(inner)(x), loaded(x))


def test_pairs_of_a_shuffled_data_set_are_split_by_parity():
    # The halves are rows 0, 2, 4, … and 1, 3, 5, … of a batch.
    x, y = regression(16)
    plain = dense_network()
    plain.compile(SVAG(0.1, ell=4), "mse")
    fit(plain, x, y)
    wrapped = SVAGModel(dense_network())
    wrapped.compile(SVAG(0.1, ell=4), "mse")
    data = tf.data.Dataset.from_tensor_slices(
        (interleaved(x, 8), interleaved(y, 8))
    )
    wrapped.fit(data.batch(16, drop_remainder=True), verbose=0)
    assert largest_difference(plain, wrapped) == 0
