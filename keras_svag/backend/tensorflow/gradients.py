"""The gradients of whole batches at weights that stand still, on TensorFlow."""

import contextlib
import re

import tensorflow as tf

from keras_svag.backend.model import seeds_of
from keras_svag.backend.pairs import Gradients as AnyGradients
from keras_svag.backend.tensorflow.state import replicas

# What an error begins with where Keras runs eagerly.
_NODE = re.compile(r"^\{\{.*?\}\}")


class Gradients(AnyGradients):
    """Takes the gradient of the training loss on one batch after another."""

    def __init__(self, model, *args, **kwargs):
        super().__init__(model, *args, **kwargs)
        self._weights = [replicas(v)[0] for v in self.variables]
        seeds = {id(seed) for seed in seeds_of(model)}
        self._state = [
            part
            for variable in model.variables
            if id(variable) not in seeds
            for part in replicas(variable)
        ]

    def _gradients(self, batch, factor):
        # No copies, unless a layer assigns another value.
        kept = [(v, tf.convert_to_tensor(v)) for v in self._state]
        with tf.GradientTape() as tape:
            loss, scale = self.scaled_loss(batch, factor)
        gradients = tape.gradient(
            loss, self._weights, unconnected_gradients="zero"
        )
        for variable, value in kept:
            variable.assign(value)
        # In a strategy's scope Keras divides losses by the replicas, although
        # one of them computes the whole batch here.
        scale /= tf.distribute.get_strategy().num_replicas_in_sync
        return [
            tf.cast(tf.convert_to_tensor(g), "float32") / scale
            for g in gradients
        ]

    def compiled(self, function):
        if self.model.run_eagerly:
            return function
        return tf.function(function, autograph=False, reduce_retracing=True)


@contextlib.contextmanager
def one_sentence(name):
    """Context in which what TensorFlow refuses of a batch is one sentence.

    Args:
        name: of the argument that the batch is of.

    Raises:
        ValueError: If a label or an index is out of its range, for example.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        # The reason stands between the stack and the name of the node.
        *_, why = (
            line
            for line in error.message.splitlines()
            if line and not line.startswith("\t")
        )
        why = " ".join(_NODE.sub("", why).split())
        raise ValueError(
            f"`{name}` must have batches of which the loss can be computed, "
            f"got one of which it cannot ({why:.200})."
        ) from None
