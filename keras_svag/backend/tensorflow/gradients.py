"""The gradients of whole batches at weights that stand still, on TensorFlow."""

import contextlib
import re

import keras
import tensorflow as tf

from keras_svag.backend.model import (
    call_in_training_mode,
    gradient_weights,
    seeds_of,
    training_loss,
)
from keras_svag.backend.pairs import GivenLoss, inverse_roots, loss_scale
from keras_svag.backend.tensorflow.state import replicas

# What an error begins with where Keras runs eagerly.
_NODE = re.compile(r"^\{\{.*?\}\}")


class Gradients:
    """Takes the gradient of the training loss on one batch after another.

    The model is called in training mode, and its regularizers and `add_loss`
    are part of the loss. Every batch finds the model in the same state, even
    if a layer assigns its own weights as spectral normalization does; only the
    random seeds go on, so that dropout draws anew. A model of a
    `tf.distribute` strategy computes the whole batch on one device.

    Args:
        model: A built `keras.Model`.
        loss: Replaces the compiled loss, as in `keras.Model.compile`; None: it
            does not.
        preconditioned: Whether each gradient is divided by √v + ε, as the
            model's optimizer does it with its present second moments.

    Attributes:
        variables: The trainable variables with a gradient.

    Raises:
        ValueError: If `preconditioned` and the optimizer has made no step.
    """

    def __init__(self, model, loss=None, preconditioned=False):
        self.variables = gradient_weights(model)
        self._model = model
        self._objective = model
        if loss is not None:
            self._objective = GivenLoss(model, loss)
        self._scaled = model if model.compiled else self._objective
        self._weights = [replicas(v)[0] for v in self.variables]
        self._state = _all_but_seeds(model)
        self._scales = None
        if preconditioned:
            self._scales = inverse_roots(model.optimizer, self.variables)

    def of(self, batch):
        """The gradient of each variable on a batch, float32 and dense."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        # No copies, unless a layer assigns another value.
        kept = [(v, tf.convert_to_tensor(v)) for v in self._state]
        with tf.GradientTape() as tape:
            y_pred = call_in_training_mode(self._model, x)
            loss = training_loss(self._objective, x, y, y_pred, sample_weight)
            scale = loss_scale(self._scaled)
            loss *= tf.cast(scale, loss.dtype)
        gradients = tape.gradient(
            loss, self._weights, unconnected_gradients="zero"
        )
        for variable, value in kept:
            variable.assign(value)
        # In a strategy's scope Keras divides losses by the replicas, although
        # one of them computes the whole batch here.
        scale /= tf.distribute.get_strategy().num_replicas_in_sync
        gradients = [
            tf.cast(tf.convert_to_tensor(g), "float32") / scale
            for g in gradients
        ]
        if self._scales is None:
            return gradients
        return [g * s for g, s in zip(gradients, self._scales, strict=True)]

    def compiled(self, function):
        """A function that calls `of`, as one program unless Keras runs eagerly.

        Args:
            function: Function of tensors and nests of them.
        """
        if self._model.run_eagerly:
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


def _all_but_seeds(model):
    """The variables of a model, on every replica, without random seeds."""
    seeds = {id(seed) for seed in seeds_of(model)}
    return [
        part
        for variable in model.variables
        if id(variable) not in seeds
        for part in replicas(variable)
    ]
