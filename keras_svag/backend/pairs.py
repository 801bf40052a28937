"""Gradients of batches and pairs, and what they say, on any backend."""

import contextlib
import random

import keras
import numpy as np
from keras import ops

from keras_svag.backend.batches import arrays_of
from keras_svag.backend.model import (
    call,
    decayed_variables,
    gradient_weights,
    has_second_moments,
    inverse_root_second_moments,
    is_masked,
    iterations,
    names_of,
    notes_kept,
    safe_to_change,
    training_loss,
)
from keras_svag.noise.moments import (
    common_rows,
    is_sparse,
    layer_moments,
    squared_norm,
)
from keras_svag.scaling.optimizers import without_loss_scale

_MOMENTS = ("grad_sq_norm", "example_noise")


class GivenLoss(keras.Model):
    """Computes the given loss, plus the losses that the model adds."""

    def __init__(self, model, loss):
        super().__init__(dtype=model.dtype_policy)
        self.model = model
        self.compile(optimizer="sgd", loss=loss)


def loss_scale(model):
    """What the optimizer multiplies a loss by, a float32 scalar."""
    optimizer = getattr(model, "optimizer", None)
    scale = getattr(optimizer, "scale_loss", lambda one: one)
    return ops.cast(scale(ops.ones(())), "float32")


class TrainingLoss:
    """The loss of a batch, as training minimizes it.

    Args:
        model: A built `keras.Model`.
        loss: Replaces the compiled loss, as in `keras.Model.compile`; None: it
            does not. Where a batch has no targets, x stands for them.

    Attributes:
        is_masked: Whether a batch was seen whose loss Keras divides by the
            entries that a mask keeps.
    """

    def __init__(self, model, loss=None):
        self.model = model
        self._objective = model if loss is None else GivenLoss(model, loss)
        self._scaled = model if model.compiled else self._objective
        self.is_masked = False

    def loss_of(self, batch, training=True):
        """The loss in training mode, or in that of inference."""
        batch = safe_to_change(batch)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        if y is None and self._objective is not self.model:
            y = x
        y_pred = call(self.model, x, training)
        if training:
            self.is_masked |= is_masked(self._objective, y_pred)
        return training_loss(
            self._objective, x, y, y_pred, sample_weight, training
        )

    def scaled_loss(self, batch, factor=1.0):
        """The loss times a scale of it, the optimizer's times `factor`."""
        loss = self.loss_of(batch)
        scale = loss_scale(self._scaled) * factor
        return loss * ops.cast(scale, loss.dtype), scale


class PairProgram(TrainingLoss):
    """Measures the two halves of batches at the weights that a model has.

    The gradients of rows 0, 2, 4, … and of rows 1, 3, 5, … are those of the
    training loss, in training mode; whatever they change is put back.

    Args:
        model, loss: As for `TrainingLoss`; the model is compiled.
        per_layer: Whether to measure each variable apart too.
        keeps_generators: Whether to put back the global generators of Python
            and NumPy. Threads that draw from them at the same time would see
            their numbers again.
        rows_vary: Whether one program is to serve batches of any number of
            rows, where programs are made for one.

    Attributes:
        layers: A name for each variable that was measured.
    """

    def __init__(
        self,
        model,
        loss=None,
        per_layer=False,
        keeps_generators=True,
        rows_vary=False,
    ):
        super().__init__(model, loss)
        self._per_layer = per_layer
        self._keeps_generators = keeps_generators
        self._rows_vary = rows_vary
        self.layers = []

    def moments(self, batch):
        """The observation of a batch: `{column: scalar tensor}`.

        With several replicas the rows are summed, all else is averaged. With
        `per_layer` there is also `"layers"`, of shape `(variables, 2)`.
        """
        return self._run(self._moments, batch)

    def losses(self, batch):
        """`{"whole", "mean"}` of a batch in the mode of inference.

        That of the whole batch, and the mean of its halves' by their rows.
        """
        return self._run(self._losses, batch)

    def _run(self, function, batch):
        """What a function gives of a batch; all that it changes is put back."""
        raise NotImplementedError

    def _observation(self, gradients, batch, halves, num_rows):
        self.layers = names_of(gradient_weights(self.model))
        rows = map(num_rows, halves)
        values = observation(self.model, *gradients, *rows)
        values["batch"] = fingerprint(batch)
        if not self._per_layer:
            del values["layers"]
        return values

    def _mean_loss(self, halves, losses, num_rows):
        rows = [ops.cast(num_rows(half), "float32") for half in halves]
        total = sum(r * v for r, v in zip(rows, losses, strict=True))
        return total / sum(rows)


class Gradients(TrainingLoss):
    """Takes the gradient of the training loss on one batch after another.

    The model is called in training mode, and its regularizers and `add_loss`
    are part of the loss. Every batch finds the model in the same state, even
    if a layer assigns its own weights as spectral normalization does; only the
    random seeds go on, so that dropout draws anew. A model of a
    `tf.distribute` strategy computes the whole batch on one device.

    Args:
        model, loss: As for `TrainingLoss`.
        preconditioned: Whether each gradient is divided by √v + ε, as the
            model's optimizer does it with its present second moments.

    Attributes:
        variables: The trainable variables with a gradient.

    Raises:
        ValueError: If `preconditioned` and the optimizer has made no step.
    """

    def __init__(self, model, loss=None, preconditioned=False):
        super().__init__(model, loss)
        self.variables = gradient_weights(model)
        self._scales = None
        if preconditioned:
            optimizer, scales = model.optimizer, []
            if optimizer.built:
                scales = [
                    inverse_root_second_moments(optimizer, v)
                    for v in self.variables
                ]
            if not any(np.any(ops.convert_to_numpy(s)) for s in scales):
                raise ValueError(
                    "`preconditioned` needs the optimizer's second moments, "
                    "and it has made no step; train first."
                )
            self._scales = scales

    @property
    def loss_scale(self):
        """What the optimizer multiplies the loss by."""
        return float(ops.convert_to_numpy(loss_scale(self._scaled)))

    def of(self, batch, factor=1.0):
        """The gradient of each variable on a batch, float32 and dense.

        Args:
            batch: The batch.
            factor: What the loss scale is multiplied by meanwhile.
        """
        gradients = self._gradients(batch, factor)
        if self._scales is None:
            return gradients
        return [g * s for g, s in zip(gradients, self._scales, strict=True)]

    def compiled(self, function):
        """A function that calls `of`, as one program unless Keras runs eagerly.

        Args:
            function: Function of tensors and nests of them.
        """
        return function


def observation(model, g1, g2, rows1, rows2):
    """What a pair of gradients says, on the device.

    Args:
        model: The model; its optimizer is that which it has at this step.
        g1, g2: Lists of gradients of its `gradient_weights`.
        rows1, rows2: Examples of the two.

    Returns:
        `{column: scalar tensor}` without learning rate and iteration, and
        `"layers"`, of shape `(variables, 2)`.
    """
    weights = gradient_weights(model)
    layers = layer_moments(g1, g2, rows1, rows2)
    pairs = {"": layers}
    optimizer = without_loss_scale(getattr(model, "optimizer", None))
    if has_second_moments(optimizer) and optimizer.built:
        scaled = preconditioned_pair(g1, g2, weights, optimizer)
        pairs["preconditioned_"] = layer_moments(*scaled, rows1, rows2)
    values = {
        "rows": ops.cast(rows1 + rows2, "float32"),
        "weight_sq_norm": squared_norm(decayed_variables(model) or weights),
        "layers": layers,
    }
    for prefix, moments in pairs.items():
        totals = ops.unstack(ops.sum(moments, axis=0))
        for name, total in zip(_MOMENTS, totals, strict=True):
            values[prefix + name] = total
    return values


def fingerprint(batch):
    """A number that tells batches of other examples apart, float32.

    It is a sum over the rows of all arrays, each with a factor of its own.
    """
    number = ops.zeros((), "float32")
    for leaf in arrays_of(batch):
        for part in _parts(leaf):
            dtype = keras.backend.standardize_dtype(part.dtype)
            if dtype == "string" or not len(part.shape):
                continue
            rows = ops.cast(part, "float32")
            if len(part.shape) > 1:
                rows = ops.sum(rows, axis=tuple(range(1, len(part.shape))))
            places = ops.cast(ops.arange(ops.shape(rows)[0]), "float32")
            number = number / 2 + ops.sum(rows * ops.cos(places))
    return number


def _parts(leaf):
    """What an array consists of, if it is a ragged or a sparse one."""
    if hasattr(leaf, "flat_values"):
        return [leaf.flat_values]
    if hasattr(leaf, "dense_shape"):
        return [leaf.values, leaf.indices]
    if hasattr(leaf, "todense"):
        return [leaf.data, leaf.indices]
    return [leaf]


def place_in_training(model):
    """Learning rate and steps done: `{column: scalar tensor}`."""
    optimizer = without_loss_scale(getattr(model, "optimizer", None))
    if optimizer is None:
        return {}
    # A product: an eager read of a variable shows what is assigned later.
    return {
        "learning_rate": 1 * ops.convert_to_tensor(optimizer.learning_rate),
        "iteration": iterations(optimizer),
    }


def preconditioned_pair(first, second, variables, optimizer):
    """The gradients of a pair, each over the root of its second moment.

    A gradient g becomes g / (√v + ε), with v and ε those of the optimizer
    before it has seen this pair: the scale is then independent of both
    gradients, and ⟨g1, P g2⟩ with P = 1 / (√v + ε)² stays unbiased. Where v is
    0 still, nothing is known of the scale: the entry is 0, and is left out.

    Args:
        first, second: Lists of gradients, one for each variable: tensors,
            sparse ones, or `None`.
        variables: The variables.
        optimizer: A built optimizer that `has_second_moments`.

    Returns:
        `(first, second)`, lists of tensors, `None` where a gradient is.
    """
    pairs = []
    for g1, g2, variable in zip(first, second, variables, strict=True):
        rows = None
        if g1 is None:
            pairs.append((None, None))
            continue
        if is_sparse(g1):
            g1, g2, rows = common_rows(g1, g2)
        scale = inverse_root_second_moments(optimizer, variable, rows)
        pairs.append(tuple(ops.cast(g, scale.dtype) * scale for g in (g1, g2)))
    return tuple(zip(*pairs, strict=True))


@contextlib.contextmanager
def python_state_kept(model, keeps_generators):
    """Context after which what a call changes outside of variables is back.

    Args:
        model: The model that is called.
        keeps_generators: Whether the global generators of Python and NumPy
            are among it.
    """
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with notes_kept(model):
            yield
    finally:
        if keeps_generators:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


def fetched(values):
    """The tensors of a nest as NumPy arrays of float64."""
    return keras.tree.map_structure(
        lambda v: np.asarray(ops.convert_to_numpy(v), np.float64), values
    )
