"""SVAGModel and the model in it: how they compile, log and evaluate."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_svag import SVAG, SVAGModel
from tests.helpers import public_models
from tests.helpers.pairs import (
    assert_same,
    fit,
    fit_pairs,
    fit_plain,
    svag_model,
)
from tests.helpers.small_problems import (
    NUM_CLASSES,
    classification,
    dense_network,
    regression,
)

X, Y = classification(40)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def classifier(model_type=keras.Sequential):
    keras.utils.set_random_seed(0)
    return model_type([keras.Input((4,)), layers.Dense(NUM_CLASSES)])


def assert_alike(wrapped, plain, y=Y, **arguments):
    """That both train, evaluate and predict alike, on the same rows."""
    logs = fit_pairs(wrapped, X, y, **arguments)
    assert logs == fit_plain(plain, X, y, **arguments)
    assert_same(wrapped.model.variables, plain.variables)
    scores = [
        model.evaluate(X, y, verbose=0, return_dict=True)
        for model in (wrapped, plain)
    ]
    assert scores[0] == scores[1]
    assert wrapped.evaluate(X, y, verbose=0) == plain.evaluate(X, y, verbose=0)
    predictions = (m.predict(X, verbose=0) for m in (wrapped, plain))
    assert_same(*map(keras.tree.flatten, predictions))
    return logs


def test_a_compiled_model_is_trained_by_what_it_is_compiled_with():
    models = [classifier(), classifier()]
    for model in models:
        model.compile(
            SVAG(0.1, ell=3, weight_decay=0.1),
            LOSS,
            metrics=[keras.metrics.SparseCategoricalAccuracy("right")],
            weighted_metrics=["accuracy"],
            steps_per_execution=2,
        )
    wrapped = SVAGModel(models[0])
    for name in ("optimizer", "run_eagerly", "steps_per_execution"):
        assert getattr(wrapped, name) is getattr(models[0], name)
    weights = np.linspace(0.5, 1.5, len(X)).astype("float32")
    logs = assert_alike(
        wrapped,
        models[1],
        sample_weight=weights,
        validation_data=(X, Y),
        validation_batch_size=8,
    )
    assert "val_right" in logs


def test_a_model_of_another_optimizer_waits_for_compile():
    model = classifier()
    model.compile("adam", LOSS)
    wrapped = SVAGModel(model)
    with pytest.raises(ValueError, match=r"call `compile\(\)`"):
        fit(wrapped, X, Y)
    wrapped.compile(SVAG(0.1), LOSS)
    assert model.optimizer is wrapped.optimizer
    fit(wrapped, X, Y)
    assert wrapped.optimizer.iterations == 5


def test_a_layer_that_is_frozen_later_is_trained_no_more():
    model = dense_network()
    wrapped = svag_model(model, SVAG(0.1, ell=2))
    x, y = regression(16)
    fit(wrapped, x, y)
    model.layers[0].trainable = False
    wrapped.compile(SVAG(0.1, ell=2), "mse")
    before = wrapped.get_weights()
    fit(wrapped, x, y)
    changed = [
        np.any(one != other)
        for one, other in zip(wrapped.get_weights(), before, strict=True)
    ]
    assert changed == [False, False, True, True]


def test_metric_objects_count_every_example_once():
    metric = keras.metrics.SparseCategoricalAccuracy("right")
    wrapped = svag_model(classifier(), SVAG(0.1, ell=2), LOSS, metrics=[metric])
    fit(wrapped, X, Y)
    assert float(metric.count) == len(X)
    names = [m.name for m in wrapped.metrics]
    assert len(names) == len(set(names)) and "loss" in names
    wrapped.evaluate(X, Y, batch_size=16, verbose=0)
    assert float(metric.count) == len(X)


class OwnSteps(keras.Sequential):
    """An evaluation, a metric and a result of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.margin = keras.metrics.Mean("margin")

    def test_step(self, data):
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False)
        loss = self.compute_loss(x, y, y_pred, weights)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(2 * loss)
        return self.compute_metrics(x, y, y_pred, weights)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.margin.update_state(tf.reduce_max(y_pred, 1))
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def get_metrics_result(self):
        results = super().get_metrics_result()
        return {**results, "twice": 2 * results["margin"]}

    def compile(self, learning_rate=0.1, **kwargs):
        super().compile(SVAG(learning_rate, ell=3), **kwargs)


def test_methods_of_the_models_own_are_called():
    models = [SVAGModel(classifier(OwnSteps)), classifier(OwnSteps)]
    for model in models:
        model.compile(learning_rate=0.3, loss=LOSS, metrics=["accuracy"])
    logs = assert_alike(
        *models,
        validation_data=(X[:31], Y[:31]),
        validation_batch_size=8,
        epochs=2,
    )
    assert logs["twice"][-1] == 2 * logs["margin"][-1] != 0
    assert logs["val_margin"][-1] != 0


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have")
def test_scales_of_float8_are_overwritten_and_not_mixed():
    script = public_models.float8()
    script.model.optimizer = SVAG(0.1, ell=3)
    wrapped = SVAGModel(script.model)
    x, y = script.x[:8], script.y[:8]
    fit(wrapped, x, y)
    history = script.model.layers[0].inputs_amax_history
    assert np.max(history) == np.max(np.abs(x[1::2]))


def test_inputs_are_cast_by_the_model_alone():
    # 2049 is no number of float16.
    x = np.full((2, 4), 2049.0, "float32")
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        wrapped = SVAGModel(
            keras.Sequential(
                [keras.Input((4,)), layers.Rescaling(1.0, dtype="float32")]
            )
        )
    finally:
        keras.config.set_dtype_policy(usual)
    assert wrapped.dtype_policy.name == "mixed_float16"
    np.testing.assert_array_equal(wrapped(x), x)
