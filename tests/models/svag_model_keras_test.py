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


# Files

INPUTS, TARGETS = regression(32)


@keras.saving.register_keras_serializable(package="svag_model_keras_test")
class OwnLoss(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(5, activation="tanh")
        self.out = keras.layers.Dense(2)

    def call(self, inputs):
        return self.out(self.hidden(inputs))

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        compiled = super().compute_loss(x, y, y_pred, sample_weight, training)
        return 3 * compiled + 0.1 * keras.ops.mean(y_pred**2)


def trained(model, kind=SVAG, **compilation):
    optimizer = kind(0.05, ell=2, weight_decay=0.1)
    model = svag_model(model, optimizer, **compilation)
    fit(model, INPUTS, TARGETS)
    return model


@pytest.mark.parametrize(
    ("make_model", "kind"),
    [
        (dense_network, SVAGAdam),
        pytest.param(OwnLoss, SVAG, marks=pytest.mark.slow),
    ],
)
def test_loaded_model_trains_on_exactly(tmp_path, make_model, kind):
    keras.utils.set_random_seed(0)
    model = trained(make_model(), kind, metrics=["mae"])
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


@pytest.mark.slow
def test_weights_files_hold_the_optimizer_too(tmp_path):
    path = tmp_path / "model.weights.h5"
    for part in (lambda model: model, lambda model: model.model):
        model, other = trained(dense_network()), trained(dense_network(seed=1))
        part(model).save_weights(path)
        part(other).load_weights(path)
        assert_same(other.variables, model.variables)
        for each in (model, other):
            fit(each, INPUTS, TARGETS)
        assert_same(other.variables, model.variables)


# What is refused


def test_the_model_in_it_is_exported(tmp_path):
    wrapped = svag_model(classifier(), SVAG(0.1))
    wrapped.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(
        exported.serve(X), wrapped.model(X), rtol=1e-5, atol=1e-6
    )


def test_another_optimizer_is_refused_and_the_callback_named():
    adam = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    with pytest.raises(ValueError) as error:
        svag_model(dense_network(), adam)
    check_sentence(
        str(error.value),
        "`optimizer` must be SVAG, SVAGAdam or SVAGRMSprop",
        "keras_svag.GradientNoiseMonitor",
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: public_models.own_train_step().model,
        lambda: SVAGModel(dense_network()),
    ],
)
def test_a_train_step_of_the_models_own_is_refused(make):
    model = make()
    with pytest.raises(ValueError) as error:
        SVAGModel(model)
    check_sentence(
        *(str(error.value), f"got {type(model).__name__}", "`train_step`"),
        "compile the model itself with keras_svag.SVAG",
    )


def test_an_optimizer_trains_one_model_in_one_way():
    plain = dense_network()
    plain.compile(SVAG(0.1, ell=3), "mse")
    plain.optimizer.build(plain.trainable_variables)
    sentence = "give each model its own SVAG"
    for refused_call in (
        lambda: SVAGModel(plain),
        lambda: svag_model(dense_network(), plain.optimizer),
    ):
        with pytest.raises(ValueError, match=sentence) as error:
            refused_call()
        check_sentence(str(error.value), "already trains a plain model")
    wrapped = svag_model(dense_network(), SVAG(0.1, ell=3))
    fit(wrapped, INPUTS, TARGETS)
    with pytest.raises(ValueError, match=f"belongs to an SVAG.*{sentence}"):
        fit(wrapped.model, INPUTS, TARGETS)
