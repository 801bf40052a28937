"""SVAGModel as a Keras model: compiled, saved, and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_svag import SVAG, GradientNoiseMonitor, SVAGAdam, SVAGModel
from tests.helpers import public_models
from tests.helpers.pairs import (
    assert_same,
    fit,
    fit_pairs,
    fit_plain,
    moments,
    svag_model,
)
from tests.helpers.refusals import check_sentence
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
    assert wrapped.evaluate(X, y, verbose=0) == plain.evaluate(X, y, verbose=0)
    predictions = (m.predict(X, verbose=0) for m in (wrapped, plain))
    assert_same(*map(keras.tree.flatten, predictions))
    return logs


def test_a_compiled_model_is_trained_by_what_it_is_compiled_with():
    model, plain = models = [classifier(), classifier()]
    for each in models:
        each.compile(
            SVAG(0.1, ell=3, weight_decay=0.1),
            LOSS,
            metrics=[keras.metrics.SparseCategoricalAccuracy("right")],
            weighted_metrics=["accuracy"],
            steps_per_execution=2,
        )
    wrapped = SVAGModel(model)
    for name in ("optimizer", "run_eagerly", "steps_per_execution"):
        assert getattr(wrapped, name) is getattr(model, name)
    weights = np.linspace(0.5, 1.5, len(X)).astype("float32")
    validation = {"validation_data": (X, Y), "validation_batch_size": 8}
    logs = assert_alike(wrapped, plain, sample_weight=weights, **validation)
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
    validation = {"validation_data": (X[:31], Y[:31]), "epochs": 2}
    logs = assert_alike(*models, validation_batch_size=8, **validation)
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


# Files

INPUTS, TARGETS = regression(32)


@keras.saving.register_keras_serializable(package="svag_model_keras_test")
class Subclass(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = dense_network()

    def call(self, inputs):
        return self.inner(inputs)


@pytest.mark.parametrize(
    "make_model",
    [dense_network, pytest.param(Subclass, marks=pytest.mark.slow)],
)
def test_loaded_model_trains_on_exactly(tmp_path, make_model):
    optimizer = SVAGAdam(0.05, ell=2, weight_decay=0.1)
    model = svag_model(make_model(), optimizer, metrics=["mae"])
    fit(model, INPUTS, TARGETS)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is SVAGModel and type(loaded.model) is type(model.model)
    assert loaded.model.optimizer is loaded.optimizer
    # The model in it is hers: it needs no keras_svag.
    assert "keras_svag" not in str(loaded.model.get_config())
    assert_same([loaded(INPUTS)], [model(INPUTS)])
    series = []
    for each in (model, loaded):
        monitor = GradientNoiseMonitor()
        logs = fit(each, INPUTS, TARGETS, callbacks=[monitor])
        series.append((monitor.series, logs))
    assert series[0] == series[1]
    assert_same(loaded.variables, model.variables)
    assert_same(moments(loaded.optimizer), moments(model.optimizer))
    assert loaded.optimizer.effective_iterations == 8 / 2


def test_the_model_in_it_is_exported(tmp_path):
    wrapped = svag_model(classifier(), SVAG(0.1))
    wrapped.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(exported.serve(X), wrapped(X), 1e-5, 1e-6)


# What is refused


def plain_of_svag():
    plain = dense_network()
    plain.compile(SVAG(0.1, ell=3), "mse")
    plain.optimizer.build(plain.trainable_variables)
    return plain


ADAM = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
OWN_STEP = "`train_step`", "compile the model itself with keras_svag.SVAG"
TWICE = "already trains a plain model", "give each model its own SVAG"


@pytest.mark.parametrize(
    ("refused_call", "parts"),
    [
        (
            lambda: svag_model(dense_network(), ADAM),
            (
                "`optimizer` must be SVAG, SVAGAdam or SVAGRMSprop",
                "keras_svag.GradientNoiseMonitor",
            ),
        ),
        (
            lambda: SVAGModel(public_models.own_train_step().model),
            ("got Autoencoder", *OWN_STEP),
        ),
        (
            lambda: SVAGModel(SVAGModel(dense_network())),
            ("got SVAGModel", *OWN_STEP),
        ),
        (lambda: SVAGModel(plain_of_svag()), TWICE),
        (lambda: svag_model(dense_network(), plain_of_svag().optimizer), TWICE),
    ],
)
def test_what_is_refused(refused_call, parts):
    with pytest.raises(ValueError) as error:
        refused_call()
    check_sentence(str(error.value), *parts)


def test_the_optimizer_of_an_svag_model_trains_no_plain_one():
    wrapped = svag_model(dense_network(), SVAG(0.1, ell=3))
    fit(wrapped, INPUTS, TARGETS)
    with pytest.raises(ValueError, match="belongs to an SVAG.*its own SVAG"):
        fit(wrapped.model, INPUTS, TARGETS)
