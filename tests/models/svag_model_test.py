"""SVAGModel trains as the plain model does on the halves of its batches."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_svag import SVAG, SVAGAdam, SVAGModel, SVAGRMSprop, svag_weights
from tests.helpers import public_models
from tests.helpers.pairs import (
    assert_same,
    fit,
    fit_pairs,
    fit_plain,
    moments,
    svag_model,
)
from tests.helpers.small_problems import (
    NUM_CLASSES,
    classification,
    dense_network,
    linear_model,
    regression,
)

X, Y = classification(40, (4, 4, 1))


class ScaledKernel(layers.Layer):
    """`x @ (0.3 kernel)` with a penalty on a gain that nothing else uses.

    Its gradients end in a product by a constant, which the graph optimizer
    would merge with the weights that mix a pair.
    """

    def build(self, input_shape):
        shape = (input_shape[-1], NUM_CLASSES)
        self.kernel = self.add_weight(shape=shape)
        self.gain = self.add_weight(
            shape=(3,), initializer="ones", regularizer="l2"
        )

    def call(self, inputs):
        return ops.matmul(inputs, 0.3 * self.kernel)


def network():
    """A classifier of images, of which one layer is used twice."""
    keras.utils.set_random_seed(0)
    twice = layers.Dense(16, activation="tanh", bias_regularizer="l1")
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Conv2D(4, 3, activation="relu", kernel_regularizer="l2"),
            layers.Flatten(),
            twice,
            twice,
            ScaledKernel(),
            layers.Softmax(),
        ]
    )


def optimizer_of(kind, ell, pairing="independent"):
    rates = [0.04, 0.02, 0.01]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], rates)
    return kind(schedule, ell=ell, pairing=pairing, weight_decay=0.1)


LOSS = "sparse_categorical_crossentropy"


def assert_trained_alike(kind, ell, pairing="independent", **compilation):
    plain = network()
    atol = 1e-6 if compilation.get("jit_compile") else 0
    plain.compile(optimizer_of(kind, ell, pairing), LOSS, **compilation)
    fit_plain(plain, X, Y)
    wrapped = svag_model(
        network(), optimizer_of(kind, ell, pairing), LOSS, **compilation
    )
    fit_pairs(wrapped, X, Y)
    assert_same(wrapped.variables, plain.variables, atol)
    ours, theirs = wrapped.optimizer, plain.optimizer
    assert_same(moments(ours), moments(theirs), atol)
    assert len(moments(ours)) == 6 * [SVAG, SVAGRMSprop, SVAGAdam].index(kind)
    assert float(ours.continuous_time) == float(theirs.continuous_time) > 0
    assert ours.effective_iterations == theirs.effective_iterations == 5 / ell


@pytest.mark.filterwarnings("ignore:With ell=1")
@pytest.mark.parametrize(
    ("kind", "ell", "pairing"),
    [
        (SVAG, 3, "independent"),
        (SVAG, 1, "independent"),
        (SVAG, 1, "halves"),
        (SVAGAdam, 3, "independent"),
        (SVAGRMSprop, 3, "halves"),
    ],
)
def test_pairs_are_consecutive_batches_bit_for_bit(kind, ell, pairing):
    assert_trained_alike(kind, ell, pairing, jit_compile=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SVAG, SVAGAdam, SVAGRMSprop])
def test_pairs_are_consecutive_batches_under_xla(kind):
    assert_trained_alike(kind, 2, jit_compile=True)


SCRIPTS = [
    public_models.layers_with_state,
    public_models.masked_lstm,
    public_models.embeddings,
    public_models.sample_weights,
]
MORE_SCRIPTS = [
    public_models.convolutions,
    public_models.coupled_examples,
    public_models.dice_loss,
    public_models.named_targets,
    public_models.class_weights,
    public_models.sparse_input,
    public_models.ragged_input,
    public_models.own_computations,
    public_models.int8,
]
SCRIPTS += [pytest.param(s, marks=pytest.mark.slow) for s in MORE_SCRIPTS]


def trained(make_script, is_wrapped, optimizer, **compilation):
    """A script's model, trained by another optimizer than its own; logs."""
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    script = make_script(**compilation)
    model = script.model
    model.optimizer = optimizer
    fit_batches = fit_pairs if is_wrapped else fit_plain
    if is_wrapped:
        model = SVAGModel(model)
    return model, fit_batches(model, *script[1:4], epochs=2, **script.fit)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("make_script", SCRIPTS, ids=lambda f: f.__name__)
def test_any_model_trains_alike(make_script):
    (plain, expected), (wrapped, logs) = (
        trained(make_script, is_wrapped, SVAG(0.05, ell=3, weight_decay=0.1))
        for is_wrapped in (False, True)
    )
    assert_same(wrapped.model.variables, plain.variables)
    assert logs == expected


def test_float16_trains_alike():
    # A scale at which nothing overflows, and the loss of which is exact.
    (plain, expected), (wrapped, logs) = (
        trained(
            public_models.half_precision,
            is_wrapped,
            keras.optimizers.LossScaleOptimizer(SVAGAdam(0.01, ell=2), 8.0),
        )
        for is_wrapped in (False, True)
    )
    assert_same(wrapped.model.variables, plain.variables)
    assert logs == expected


def test_reload_of_a_plain_model_in_mid_pair_is_the_svag_model(tmp_path):
    x, y = regression(40)
    plain = dense_network()
    plain.compile(optimizer_of(SVAGAdam, 2), "mse")
    fit(plain, x[:12], y[:12], batch_size=4)
    plain.save(tmp_path / "model.keras")
    plain = keras.saving.load_model(tmp_path / "model.keras")
    fit(plain, x[12:], y[12:], batch_size=4)
    wrapped = svag_model(dense_network(), optimizer_of(SVAGAdam, 2))
    fit_pairs(wrapped, x, y)
    assert_same(wrapped.variables, plain.variables)
    assert_same(moments(wrapped.optimizer), moments(plain.optimizer))


def test_even_and_odd_rows_are_mixed_by_the_weights_of_svag():
    """By NumPy: a step, its decay, and the logs of the whole batch."""
    x, y = regression(8, num_outputs=1)
    model = linear_model(4)
    kernel = model.get_weights()[0].astype("float64")
    g1, g2 = (
        2 * x[half::2].T @ (x[half::2] @ kernel - y[half::2]) / 4
        for half in (0, 1)
    )
    w1, w2 = svag_weights(3)
    wrapped = svag_model(
        model, SVAG(0.3, ell=3, weight_decay=0.2), metrics=["mae"]
    )
    logs = fit(wrapped, x, y)
    expected = kernel - 0.1 * (w1 * g1 + w2 * g2 + 0.2 * kernel)
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-5)
    errors = x @ kernel - y
    assert logs["loss"] == pytest.approx([np.mean(errors**2)], rel=1e-6)
    assert logs["mae"] == pytest.approx([np.mean(np.abs(errors))], rel=1e-6)


def test_halves_with_ell_1_are_sgd_on_the_whole_batch():
    x, y = regression(40)
    plain = dense_network()
    plain.compile(keras.optimizers.SGD(0.1, weight_decay=0.1), "mse")
    expected = fit(plain, x, y, epochs=2)
    optimizer = SVAG(0.1, pairing="halves", weight_decay=0.1)
    wrapped = svag_model(dense_network(), optimizer)
    logs = fit(wrapped, x, y, epochs=2)
    assert_same(wrapped.variables, plain.variables, 1e-6)
    assert logs["loss"] == pytest.approx(expected["loss"], rel=1e-6)


class Biased(keras.Sequential):
    """Adds what no metric holds to the logs."""

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        return {**logs, "bias": ops.mean(y_pred - y)}


@pytest.mark.filterwarnings("ignore:SVAG leaves out")
@pytest.mark.parametrize(("rows", "eager"), [(40, True), (43, False)])
def test_what_compute_metrics_adds_to_the_logs_is_that_of_the_batch(
    rows, eager
):
    """Of a batch that is left out it is that of the one before."""
    x, y = regression(rows)
    plain, ours = (Biased(dense_network().layers) for _ in range(2))
    ours.set_weights(plain.get_weights())
    plain.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=eager)
    expected = fit(plain, x[:40], y[:40], batch_size=8, epochs=2)
    optimizer = SVAG(0.1, pairing="halves")
    wrapped = svag_model(ours, optimizer, run_eagerly=eager)
    logs = fit(wrapped, x, y, batch_size=8, epochs=2)
    assert logs["bias"] == pytest.approx(expected["bias"], rel=1e-5)
    # That of the first pass where the second has weight 0.
    wrapped = svag_model(ours, SVAG(0.0, ell=1), run_eagerly=eager)
    logs = fit(wrapped, x[:8], y[:8], batch_size=8)
    bias = np.mean(ours.predict(x[:8:2], verbose=0) - y[:8:2])
    assert logs["bias"] == pytest.approx([bias], rel=1e-5)


def test_train_on_batch_is_fit_and_gives_the_list_of_a_plain_model():
    x, y = regression(16)
    by_fit, by_batch = (
        svag_model(dense_network(), SVAG(0.1, ell=2), metrics=["mae"])
        for _ in range(2)
    )
    plain = dense_network()
    plain.compile("sgd", "mse", metrics=["mae"])
    fit(by_fit, x, y)
    ours = by_batch.train_on_batch(x[:8], y[:8])
    assert ours == pytest.approx(plain.train_on_batch(x[:8], y[:8]), rel=1e-6)
    logs = by_batch.train_on_batch(x[8:], y[8:], return_dict=True)
    assert logs.keys() == {"loss", "mae"}
    assert_same(by_batch.variables, by_fit.variables)
