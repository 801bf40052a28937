"""Files of an SVAGModel and of the model in it."""

import sys

import keras
import numpy as np
import pytest

from keras_svag import SVAG, GradientNoiseMonitor, SVAGAdam, SVAGModel
from tests.helpers.pairs import assert_same, fit, moments, svag_model
from tests.helpers.small_problems import dense_network, regression

X, Y = regression(32)


@keras.saving.register_keras_serializable(package="svag_model_saving_test")
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
    schedule = keras.optimizers.schedules.CosineDecay(0.05, 10)
    optimizer = kind(schedule, ell=2, weight_decay=0.1)
    model = svag_model(model, optimizer, **compilation)
    fit(model, X, Y)
    return model


@pytest.mark.parametrize(
    ("make_model", "kind"), [(dense_network, SVAGAdam), (OwnLoss, SVAG)]
)
def test_loaded_model_trains_on_exactly(tmp_path, make_model, kind):
    keras.utils.set_random_seed(0)
    model = trained(make_model(), kind, metrics=["mae"])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is SVAGModel and type(loaded.model) is type(model.model)
    assert loaded.model.optimizer is loaded.optimizer
    assert_same([loaded(X)], [model(X)])
    series = []
    for each in (model, loaded):
        monitor = GradientNoiseMonitor()
        logs = fit(each, X, Y, callbacks=[monitor])
        series.append((monitor.series, logs))
    assert series[0] == series[1]
    assert_same(loaded.variables, model.variables)
    assert_same(moments(loaded.optimizer), moments(model.optimizer))
    assert loaded.optimizer.effective_iterations == 8 / 2


def test_weights_files_hold_the_optimizer_too(tmp_path):
    path = tmp_path / "model.weights.h5"
    for part in (lambda model: model, lambda model: model.model):
        model, other = trained(dense_network()), trained(dense_network(seed=1))
        part(model).save_weights(path)
        part(other).load_weights(path)
        assert_same(other.variables, model.variables)
        for each in (model, other):
            fit(each, X, Y)
        assert_same(other.variables, model.variables)


@pytest.fixture
def without_keras_svag(monkeypatch):
    """Nothing of keras_svag can be imported or is registered in Keras."""

    def take_away():
        for name in list(sys.modules):
            if name.partition(".")[0] == "keras_svag":
                monkeypatch.setitem(sys.modules, name, None)
        registered = keras.saving.get_custom_objects()
        for name in list(registered):
            if name.startswith("keras_svag>"):
                monkeypatch.delitem(registered, name)

    return take_away


def test_the_model_in_it_needs_no_keras_svag(tmp_path, without_keras_svag):
    svag_model = trained(dense_network())
    predictions = svag_model.predict(X, verbose=0)
    svag_model.save(tmp_path / "svag.keras")
    svag_model.model.save(tmp_path / "model.keras")
    svag_model.model.save_weights(tmp_path / "model.weights.h5")
    without_keras_svag()
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    weights = dense_network(seed=1)
    weights.load_weights(tmp_path / "model.weights.h5")
    for model in (loaded, weights):
        np.testing.assert_array_equal(model.predict(X, verbose=0), predictions)
        model.compile("adam", "mse")
        fit(model, X, Y)
    with pytest.raises((ImportError, TypeError)):
        keras.saving.load_model(tmp_path / "svag.keras")
