"""Embeddings: sparse gradients stay sparse, and train as unwrapped."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_svag import SVAG, SVAGModel
from tests.helpers.small_problems import interleaved, largest_difference

WORDS, LENGTH, ROWS = 6, 3, 18
RNG = np.random.default_rng(0)
# Of few words, so that rows are there twice in a half and in both. The last
# batch of 8 has two examples of the same words.
X = RNG.integers(0, WORDS, (ROWS, LENGTH))
X[-1] = X[-2] = [1, 4, 2]
Y = RNG.normal(size=(ROWS, 1)).astype("float32")


class Places(layers.Layer):
    """Adds a vector for each place: looked up once, or for each example."""

    def __init__(self, for_each):
        super().__init__()
        self.for_each = for_each
        self.vectors = layers.Embedding(LENGTH, 2)

    def build(self, shape):
        self.vectors.build(shape[:-1])

    def call(self, x):
        places = ops.arange(ops.shape(x)[1])
        if self.for_each:
            places = ops.broadcast_to(places, ops.shape(x)[:2])
        return x + self.vectors(places)


def bag_of_words(*places, words=WORDS):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            layers.Embedding(words, 2),
            *(Places(for_each) for for_each in places),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )


def adam_with_loss_scale():
    return keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.1, global_clipnorm=0.1), 8.0
    )


def rms_prop():
    return keras.optimizers.RMSprop(0.1, clipvalue=0.02)


def fitted(model, optimizer, rows=ROWS, **compiled):
    model.compile(optimizer, "mse", **compiled)
    model.fit(X[:rows], Y[:rows], batch_size=8, shuffle=False, verbose=0)


@pytest.mark.parametrize("optimizer", [adam_with_loss_scale, rms_prop])
def test_model_with_embeddings_trains_as_unwrapped(optimizer):
    # The last batch is of two examples.
    unwrapped, model = bag_of_words(False), bag_of_words(False)
    fitted(unwrapped, optimizer())
    wrapped = SVAGModel(model)
    fitted(wrapped, optimizer())
    assert largest_difference(model, unwrapped) < 1e-5
    assert wrapped.gradient_noise.estimate().count == 3


def test_eager_and_compiled_steps_train_as_unwrapped():
    unwrapped = bag_of_words(False, True)
    fitted(unwrapped, rms_prop(), rows=8, run_eagerly=True)
    for compiled in ("run_eagerly", "jit_compile"):
        model = bag_of_words(False, True)
        fitted(SVAGModel(model), rms_prop(), rows=8, **{compiled: True})
        assert largest_difference(model, unwrapped) < 1e-5


def test_a_pair_of_a_plain_model_is_that_of_a_wrapped_one():
    # To the bit: rows are summed before they are mixed, as a dense gradient is.
    plain, model = bag_of_words(), bag_of_words()
    plain.compile(SVAG(0.1, ell=4), "mse")
    plain.fit(X[:16], Y[:16], batch_size=4, shuffle=False, verbose=0)
    wrapped = SVAGModel(model)
    wrapped.compile(SVAG(0.1, ell=4), "mse")
    x, y = interleaved(X[:16], 4), interleaved(Y[:16], 4)
    wrapped.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    assert largest_difference(model, plain) == 0


def functions_of(graph):
    """A graph and those of all functions that it calls or branches to."""
    yield graph
    for operation in graph.get_operations():
        for value in operation.node_def.attr.values():
            for name in (value.func.name, *(f.name for f in value.list.func)):
                if name:
                    yield from functions_of(graph._get_function(name).graph)


@pytest.mark.parametrize("optimizer", ["sgd", SVAG])
def test_no_gradient_is_as_large_as_the_table(optimizer):
    words, rows = 1234, None
    wrapped = SVAGModel(bag_of_words(False, words=words), batch_size=8)
    if optimizer is SVAG:
        optimizer = SVAG(0.1, ell=4)
    wrapped.compile(optimizer, "mse")
    wrapped.optimizer.build(wrapped.trainable_variables)
    spec = (tf.TensorSpec((rows, LENGTH), "int32"), tf.TensorSpec((rows, 1)))
    step = tf.function(wrapped.train_step).get_concrete_function(spec)
    large = {
        operation.type
        for graph in functions_of(step.graph)
        for operation in graph.get_operations()
        for output in operation.outputs
        if output.shape.rank and output.shape[0] == words
    }
    # The table is read, to look words up in it and for its norm.
    assert large <= {"ReadVariableOp", "Identity"}
