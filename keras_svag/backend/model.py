"""What Keras does not show in public of a model and of its optimizer."""

import contextlib
import sys
from typing import NamedTuple

import keras
from keras import ops, tree
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import get_keras_mask
from keras.src.trainers.data_adapters.array_data_adapter import (
    ArrayDataAdapter,
)
from keras.src.trainers.data_adapters.generator_data_adapter import (
    GeneratorDataAdapter,
)
from keras.src.trainers.data_adapters.tf_dataset_adapter import (
    TFDatasetAdapter,
)
from keras.src.trainers.epoch_iterator import EpochIterator

from keras_svag import arguments
from keras_svag.backend.batches import map_arrays
from keras_svag.backend.data import runs_python
from keras_svag.scaling.optimizers import kind_of, without_loss_scale

_GLOBAL_SEED = "global_seed_generator"


def check_model(model):
    """Raises a `TypeError` for what is no `keras.Model`."""
    arguments.instance("model", model, keras.Model, "a keras.Model")


def layers_of(model):
    """The model and all layers in it, those within other layers too."""
    return model._flatten_layers()


def overrides(model, method):
    """Whether the class of `model` has a method of its own for Keras's."""
    own = getattr(type(model), method, None)
    return own is not getattr(keras.Model, method, None)


def has_batch_normalization(model):
    """Whether a layer normalizes by the statistics of a training batch."""
    return any(
        isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        for layer in layers_of(model)
    )


def has_regularizer(model):
    """Whether the loss holds a penalty on a trainable weight."""
    return any(getattr(v, "regularizer", None) for v in model.trainable_weights)


def has_fixed_batch_size(model):
    """Whether a model takes batches of one size only."""
    if any(
        isinstance(layer, keras.layers.RNN) and layer.stateful
        for layer in layers_of(model)
    ):
        return True
    # Keras gives a Sequential the size of its first batch, and takes others.
    is_sequential = isinstance(model, keras.Sequential)
    inputs = None if is_sequential else getattr(model, "inputs", None)
    return any(
        x.shape and x.shape[0] is not None for x in tree.flatten(inputs or [])
    )


def build_layers(model, x):
    """Builds what is not built of a model, by calling it on inputs."""
    if not all(layer.built for layer in layers_of(model)):
        model(x)


def build_training(model, batch):
    """Builds a compiled model, with its losses and metrics, from a batch."""
    if hasattr(model, "distribute_strategy"):
        # Does nothing without a strategy: losses are then built when traced.
        model._maybe_symbolic_build(data_batch=batch)
    else:
        model._symbolic_build(data_batch=batch)
    build_layers(model, keras.utils.unpack_x_y_sample_weight(batch)[0])


def safe_to_change(batch):
    """The batch, or copies of its arrays where a model may change them."""
    if keras.backend.backend() == "torch":
        return map_arrays(ops.copy, batch)
    return batch


def call(model, x, training):
    """The outputs of a model, in training mode or in that of inference."""
    if model._call_has_training_arg:
        return model(x, training=training)
    return model(x)


def call_in_training_mode(model, x):
    """The outputs of a model as in training: with dropout, for example."""
    return call(model, safe_to_change(x), training=True)


def training_loss(model, x, y, y_pred, sample_weight, training=True):
    """The loss that training minimizes, with those that layers add."""
    return model._compute_loss(x, y, y_pred, sample_weight, training=training)


def is_masked(model, y_pred):
    """Whether Keras divides a loss by the entries that a batch keeps.

    They are those of a mask, or those whose class is not ignored.
    """
    outputs, losses = tree.flatten(y_pred), tree.flatten(model.loss)
    return any(get_keras_mask(o) is not None for o in outputs) or any(
        getattr(loss, "ignore_class", None) is not None for loss in losses
    )


def gradient_weights(model):
    """The trainable weights that the optimizer moves along a gradient.

    Keras overwrites the others, the scales of float8, with what it calls
    their gradients.
    """
    return [
        v
        for v in model.trainable_weights
        if not getattr(v, "overwrite_with_gradient", False)
    ]


def names_of(variables):
    """The path of each variable, numbered from its second use on."""
    paths = [v.path for v in variables]
    return [
        f"{path}_{paths[:i].count(path)}" if path in paths[:i] else path
        for i, path in enumerate(paths)
    ]


def accumulated_batches(optimizer):
    """The number of batches whose mean gradient makes one update."""
    optimizer = without_loss_scale(optimizer)
    return getattr(optimizer, "gradient_accumulation_steps", None) or 1


def learning_rate_schedule(optimizer):
    """The schedule of an optimizer's learning rate, or None."""
    rate = optimizer._learning_rate
    is_schedule = isinstance(
        rate, keras.optimizers.schedules.LearningRateSchedule
    )
    return rate if is_schedule else None


def decayed_variables(model):
    """Trainable variables of a model that its optimizer's decay shrinks."""
    optimizer = without_loss_scale(getattr(model, "optimizer", None))
    if optimizer is None or not optimizer.weight_decay:
        return []
    return [
        v for v in model.trainable_variables if optimizer._use_weight_decay(v)
    ]


def has_second_moments(optimizer):
    """Whether an optimizer divides by the root of elementwise moments."""
    return optimizer is not None and bool(kind_of(optimizer).second_moments)


def inverse_root_second_moments(optimizer, variable, rows=None, epsilon=None):
    """What an optimizer multiplies the gradient of a variable by.

    Args:
        optimizer: A built optimizer that `has_second_moments`.
        variable: One that it trains.
        rows: Indices of the rows that are wanted, or None for all.
        epsilon: In place of the optimizer's, if it is not None.

    Returns:
        1 / (√v + ε), or 1 / √(v + ε) where the optimizer has it so; 0 where v
        is.
    """
    optimizer = without_loss_scale(optimizer)
    kind = kind_of(optimizer)
    if epsilon is None:
        # Of SVAG it is scaled, as the second moment is.
        epsilon = getattr(optimizer, "scaled_epsilon", optimizer.epsilon)
    index = optimizer._get_variable_index(variable)

    def moment(name):
        value = ops.convert_to_tensor(getattr(optimizer, name)[index])
        return value if rows is None else ops.take(value, rows, axis=0)

    amsgrad = getattr(optimizer, "amsgrad", False)
    v = moment("_velocity_hats" if amsgrad else kind.second_moments)
    norm = v if kind.root == "is root" else ops.sqrt(v)
    root = norm + epsilon
    if kind.root == "epsilon inside":
        if getattr(optimizer, "centered", False):
            # On PyTorch v is the optimizer's own tensor, and stays.
            v = v - ops.square(moment("_average_gradients"))
        root = ops.sqrt(v + epsilon)
    known = norm > 0
    return ops.where(known, 1.0 / ops.where(known, root, 1.0), 0.0)


def epsilon_ratio(variables, optimizer):
    """Mean of v / (√v + ε)² over the entries: 1 if ε is negligible.

    Entries without a second moment yet do not count; NaN if there are no
    others.
    """
    total, count = 0.0, 0
    for variable in variables:
        scale, without = (
            ops.convert_to_numpy(
                inverse_root_second_moments(optimizer, variable, epsilon=e)
            )
            for e in (None, 0.0)
        )
        known = without > 0
        total += float(((scale[known] / without[known]) ** 2).sum())
        count += int(known.sum())
    return total / count if count else float("nan")


class FitData(NamedTuple):
    """What is known of the data that a `fit` runs through once an epoch.

    Attributes:
        examples: Their exact number, or None.
        batches: The number of batches in which they come, or None.
        batch_size: Rows of a batch, or None.
        is_read_in_python: Whether Python code of the script's own makes the
            batches, in threads beside training.
        is_whole: Whether every epoch has all of them: no `steps_per_epoch`,
            no generator, which is gone after one.
    """

    examples: int | None = None
    batches: int | None = None
    batch_size: int | None = None
    is_read_in_python: bool = False
    is_whole: bool = False


def data_of_fit():
    """The `FitData` of the calling `fit`.

    Only `fit` itself knows its data: it is looked for among the functions that
    are running.
    """
    epochs = _epochs_of_fit()
    return FitData() if epochs is None else examples_of(epochs)


def _epochs_of_fit():
    # Only the frame of `fit` is asked for its locals. A frame that is asked
    # keeps them, and this function's own would keep itself, and with it the
    # data, until Python's collector deletes them within a later `fit`: for an
    # iterator of tf.data that takes seconds.
    frame = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if "epoch_iterator" in code.co_varnames + code.co_cellvars:
            epochs = frame.f_locals.get("epoch_iterator")
            if isinstance(epochs, EpochIterator):
                return epochs
        frame = frame.f_back
    return None


def count_batches_anew():
    """Has the calling `fit` ask its data how many batches an epoch has.

    Between two epochs: it asks at its beginning alone.
    """
    _epochs_of_fit().reset()


def examples_of(data):
    """The `FitData` of Keras's iterator over the epochs of a `fit`."""
    adapter = data.data_adapter
    batches, size = adapter.num_batches, adapter.batch_size
    # PyTorch's, of which Keras looks at the length of its data set alone.
    loader = getattr(adapter, "_dataloader", None)
    sampler = getattr(loader, "sampler", None)
    known = FitData(
        batch_size=size,
        is_read_in_python=_has_python_threads(adapter),
        is_whole=data.steps_per_epoch is None
        and not isinstance(adapter, GeneratorDataAdapter)
        and not getattr(sampler, "replacement", False),
    )
    if not known.is_whole or batches is None:
        return known
    if size:
        last = adapter.partial_batch_size or size
        examples = (batches - 1) * size + last
        if getattr(loader, "drop_last", False):
            examples = batches * size
        elif hasattr(sampler, "__len__"):
            examples = len(sampler)
        known = known._replace(examples=examples)
    return known._replace(batches=batches)


def has_own_step(model):
    """Whether a model's class trains by a step, or a gradient, of its own."""
    # The latter is JAX's.
    methods = "train_step", "compute_loss_and_updates"
    return any(overrides(model, method) for method in methods)


def _has_python_threads(adapter):
    """Whether threads run Python code for the batches of a Keras adapter."""
    if isinstance(adapter, TFDatasetAdapter):
        return runs_python(adapter.get_tf_dataset())
    if keras.backend.backend() == "tensorflow":
        # Of all but arrays Keras makes a data set there, which reads ahead.
        return not isinstance(adapter, ArrayDataAdapter)
    return getattr(adapter, "enqueuer", None) is not None


def examples_in_loss(model):
    """How many examples the mean of the loss is over that Keras logs.

    None where that is not known: with a train step of the model's own, and of
    more examples than a float32 can count. Where something was evaluated since
    the epoch began, they are others.
    """
    tracker = model._loss_tracker
    if tracker is None or overrides(model, "train_step"):
        return None
    count = float(ops.convert_to_numpy(tracker.count))
    return int(count) if count < 2**24 else None


def global_seed():
    """Keras's own seed generator, from which layers without a seed draw."""
    return global_state.get_global_attribute(_GLOBAL_SEED)


@contextlib.contextmanager
def notes_kept(model):
    """Context after which Keras's own notes of a call are those of before.

    They are the losses that layers added in it, and which seed generator is
    the global one: no variables.
    """
    losses = [
        (layer, list(layer._losses), set(layer._loss_ids))
        for layer in layers_of(model)
    ]
    seed = global_seed()
    try:
        yield
    finally:
        global_state.set_global_attribute(_GLOBAL_SEED, seed)
        for layer, own, ids in losses:
            layer._losses[:] = own
            layer._loss_ids.clear()
            layer._loss_ids.update(ids)


def reset_new_metrics(model, known):
    """Resets the metrics that were built since a model had these variables."""
    known = {id(variable) for variable in known}
    for layer in layers_of(model):
        for metric in layer.metrics:
            if not all(id(v) in known for v in metric.variables):
                metric.reset_state()


def with_values(model):
    """Context in which variables have values, within an epoch of `fit` too."""
    return contextlib.nullcontext()


def iterations(optimizer):
    """The steps that an optimizer has done; 0 without one.

    A batch whose gradient is accumulated is a part of a step.
    """
    optimizer = without_loss_scale(optimizer)
    if optimizer is None:
        return 0.0
    accumulated = accumulated_batches(optimizer)
    # A product: an eager read of a variable shows what is assigned later.
    batches = 1 * ops.convert_to_tensor(optimizer._iterations)
    return batches if accumulated == 1 else batches / accumulated


def seeds_of(model):
    """The states of the random generators of a model, and Keras's own."""
    generators = [
        generator
        for layer in layers_of(model)
        for generator in layer._seed_generators
    ]
    generators += [] if global_seed() is None else [global_seed()]
    return list({id(g.state): g.state for g in generators}.values())


def state_of(model, trains=False):
    """All variables that a call of a model may assign: weights and others.

    Where it `trains`, those of its optimizer too.
    """
    variables = [*model.variables, *model.metrics_variables]
    for layer in layers_of(model):
        for metric in layer.metrics:
            variables += metric.variables
    variables += seeds_of(model)
    if trains:
        variables += model.optimizer.variables
    return list({id(v): v for v in variables}.values())
