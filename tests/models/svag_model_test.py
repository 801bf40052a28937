"""How SVAGModel trains: on which rows, by which passes, with what state."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_svag import SVAG, SVAGAdam, SVAGModel, SVAGRMSprop
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
    bag_of_words,
    classification,
    dense_network,
    regression,
)


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
    twice = layers.Dense(16, activation="tanh", bias_regularizer="l1")
    model = keras.Sequential(
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
    model.compile(loss="sparse_categorical_crossentropy")
    return public_models.Script(model, *classification(40, (4, 4, 1)))


def svag(kind=SVAG, ell=3, pairing="independent"):
    rates = [0.04, 0.02, 0.01]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], rates)
    return kind(schedule, ell=ell, pairing=pairing, weight_decay=0.1)


def scaled_adam():
    # A scale at which nothing overflows, and the loss is exact.
    adam = SVAGAdam(0.01, ell=2)
    return keras.optimizers.LossScaleOptimizer(adam, 8.0)


def trained_alike(make_script, make_optimizer):
    """A script's models, and their logs, trained plain and in pairs."""
    models, logs = [], []
    for fit_batches in (fit_plain, fit_pairs):
        keras.backend.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        script = make_script()
        model = script.model
        model.optimizer = make_optimizer()
        if fit_batches is fit_pairs:
            model = SVAGModel(model)
        logs.append(fit_batches(model, *script[1:4], epochs=2, **script.fit))
        # What `compute_metrics` adds is the mean of the halves' here.
        logs[-1].pop("bias", None)
        models.append(script.model)
    return models, logs


@pytest.mark.filterwarnings("ignore:With ell=1")
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize(
    ("make_script", "make_optimizer"),
    [
        (network, svag),
        (network, lambda: svag(ell=1)),
        (network, lambda: svag(SVAGAdam)),
        (network, lambda: svag(SVAGRMSprop, pairing="halves")),
        (public_models.layers_with_state, svag),
        (public_models.embeddings, svag),
        (public_models.convolutions, svag),
        *(
            pytest.param(script, svag, marks=pytest.mark.slow)
            for script in (
                public_models.sample_weights,
                public_models.masked_lstm,
                public_models.summed_add_loss,
                public_models.dice_loss,
                public_models.named_targets,
                public_models.class_weights,
                public_models.sparse_input,
                public_models.ragged_input,
                public_models.own_computations,
                public_models.int8,
            )
        ),
        pytest.param(
            public_models.half_precision, scaled_adam, marks=pytest.mark.slow
        ),
    ],
    ids=lambda function: function.__name__,
)
def test_pairs_are_consecutive_batches(make_script, make_optimizer):
    models, (expected, logs) = trained_alike(make_script, make_optimizer)
    assert_same(*(model.variables for model in models))
    theirs, ours = (
        getattr(model.optimizer, "inner_optimizer", model.optimizer)
        for model in models
    )
    assert_same(moments(ours), moments(theirs))
    assert bool(moments(ours)) == (type(ours) is not SVAG)
    assert float(ours.continuous_time) == float(theirs.continuous_time) > 0
    done = 2 * 5 / ours.ell
    assert ours.effective_iterations == theirs.effective_iterations == done
    if ours.ell > 1:
        assert logs == expected


def test_examples_that_attend_to_each_other_are_paired_alike():
    # TensorFlow's rewriting of arithmetic rounds two halves in one graph
    # otherwise than two batches in two calls.
    options = tf.config.optimizer.get_experimental_options()
    change = tf.config.optimizer.set_experimental_options
    change({"arithmetic_optimization": False})
    try:
        (plain, held), _ = trained_alike(public_models.coupled_examples, svag)
    finally:
        change({"arithmetic_optimization": True} | options)
    assert_same(held.variables, plain.variables)


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
    model = Biased(dense_network().layers)
    for optimizer, seen in (
        (SVAG(0.0, pairing="halves"), slice(32, 40)),
        # That of the first pass where the second has weight 0.
        (SVAG(0.0, ell=1), slice(32, 40, 2)),
    ):
        wrapped = svag_model(model, optimizer, run_eagerly=eager)
        logs = fit(wrapped, x, y, batch_size=8)
        bias = np.mean(model.predict(x[seen], verbose=0) - y[seen])
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
    ours, theirs = (
        list(map(float, model.train_on_batch(x[:8], y[:8])))
        for model in (by_batch, plain)
    )
    assert ours == pytest.approx(theirs, rel=1e-6)
    logs = by_batch.train_on_batch(x[8:], y[8:], return_dict=True)
    assert logs.keys() == {"loss", "mae"}
    assert_same(by_batch.variables, by_fit.variables)


# The two passes of a step, and their state


def trace(model, x=None, y=None):
    """The graph of a training step."""
    specs = x or tf.TensorSpec((8, 4)), y or tf.TensorSpec((8, 2))
    model.optimizer.build(model.trainable_variables)
    return tf.function(model.train_step).get_concrete_function(specs).graph


def operations(graph):
    """Those of a graph and of all functions that it calls or branches to."""
    for operation in graph.get_operations():
        yield operation
        for value in operation.node_def.attr.values():
            for name in (value.func.name, *(f.name for f in value.list.func)):
                if name:
                    yield from operations(graph._get_function(name).graph)


def count_matmuls(model):
    return sum(op.type == "MatMul" for op in operations(trace(model)))


def test_ell_1_computes_nothing_of_the_second_half_unless_it_is_observed():
    plain = dense_network()
    plain.compile("sgd", "mse")
    one_pass = count_matmuls(plain)
    assert one_pass > 0
    for ell, pairing, is_observed, passes in (
        (1, "independent", False, 1),
        (1, "independent", True, 2),
        (1, "halves", False, 2),
        (2, "independent", False, 2),
    ):
        model = svag_model(dense_network(), SVAG(0.1, ell=ell, pairing=pairing))
        if is_observed:
            model.observe()
        assert count_matmuls(model) == passes * one_pass, (ell, is_observed)


def test_no_gradient_is_as_large_as_an_embedding():
    words = 1234
    model = svag_model(bag_of_words(words), SVAG(0.1, ell=4))
    model.observe(per_layer=True)
    specs = tf.TensorSpec((None, 3), "int32"), tf.TensorSpec((None, 1))
    large = {
        operation.type
        for operation in operations(trace(model, *specs))
        for output in operation.outputs
        if output.shape.rank and output.shape[0] == words
    }
    # The table is read to look words up in it, and squared for its norm.
    assert large <= {"ReadVariableOp", "Identity", "Square", "Mul"}


@pytest.mark.parametrize(
    ("pairing", "trainable"),
    [("halves", True), ("halves", False), ("independent", True)],
)
def test_halves_with_batch_normalization_warn(pairing, trainable):
    normalization = layers.BatchNormalization(trainable=trainable)
    model = keras.Sequential([keras.Input((4,)), normalization])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        svag_model(model, SVAG(0.1, ell=2, pairing=pairing))
    found = [w for w in caught if "pairing='independent'" in str(w.message)]
    assert len(found) == (pairing == "halves" and trainable)


def test_model_without_trainable_weights_warns():
    model = dense_network()
    model.trainable = False
    model = svag_model(model, SVAG(0.1, ell=4))
    with pytest.warns(UserWarning, match="no trainable weights"):
        logs = fit(model, *regression(8))
    assert np.isfinite(logs["loss"][0])


# Batches of any size

INPUTS, TARGETS = regression(50)


BATCHES = tf.data.Dataset.from_tensor_slices((INPUTS, TARGETS)).batch(16)


def amplified(**compilation):
    return svag_model(dense_network(), SVAG(0.1, ell=4), **compilation)


def arrays(rows, size):
    return {"x": INPUTS[:rows], "y": TARGETS[:rows], "batch_size": size}


@pytest.mark.parametrize(
    ("fed", "left_out", "sizes", "eager"),
    [
        (arrays(50, 16), ["2 of the 50"], [16, 16, 16], False),
        # The default batch size is 32.
        (arrays(9, None), ["1 of the 9"], [8], True),
        (arrays(9, 7), ["3 of the 9"], [6], False),
        (arrays(48, 16), [], [16, 16, 16], False),
        # Nothing is known of their sizes before they come.
        ({"x": BATCHES}, [], [16, 16, 16], False),
        ({"x": (batch for batch in BATCHES)}, [], [16, 16, 16], False),
    ],
)
def test_rows_that_are_left_out_are_counted(fed, left_out, sizes, eager):
    trained = amplified(run_eagerly=eager)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained.fit(shuffle=False, verbose=0, **fed)
    said = [w for w in caught if "leaves out" in str(w.message)]
    assert [str(w.message).split(" rows")[0] for w in said] == [
        f"SVAG leaves out {rows}" for rows in left_out
    ]
    # As on batches of these sizes, each for itself.
    expected, start = amplified(), 0
    for size in sizes:
        rows = slice(start, start + size)
        fit(expected, INPUTS[rows], TARGETS[rows], batch_size=size)
        start += size
    assert_same(trained.variables, expected.variables, 1e-6 if eager else 0)
    assert trained.optimizer.iterations == len(sizes)


def test_sizes_of_train_on_batch_may_change():
    trained = amplified(jit_compile=False)
    before = 0
    for size, is_trained in ((1, 0), (8, 1), (16, 1), (8, 0), (3, 0), (16, 1)):
        trained.train_on_batch(INPUTS[:size], TARGETS[:size])
        assert trained.optimizer.iterations - before == is_trained, size
        before = int(trained.optimizer.iterations)


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (1, 2), (50, 1)])
def test_batches_of_one_row_are_refused(rows, size):
    trained = amplified()
    before = trained.get_weights()
    with pytest.raises(ValueError, match="at least 2 rows, .* got 1;"):
        trained.fit(**arrays(rows, size), verbose=0)
    assert_same(trained.get_weights(), before)
