"""What Keras and TensorFlow do not show in public, in one place.

Whatever else of this library needs it asks here, so that a new version of
Keras that moves it is followed by changing this package alone.
"""

import json
import zipfile

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from keras.src.saving import keras_saveable
from keras.src.utils import naming, tracking
from tensorflow.python.framework import config as framework_config

from keras_svag import arguments
from keras_svag.optimizers.adaptive import SVAGAdam, SVAGRMSprop

_COMPILATION = (
    "optimizer",
    "loss",
    "_compile_loss",
    "_compile_metrics",
    "_loss_tracker",
)

# Operations that read no values.
_SHAPES = ("Shape", "ShapeN", "Size", "Rank")


def check_model(model):
    """Raises a `TypeError` for what is no `keras.Model`."""
    if not isinstance(model, keras.Model):
        raise TypeError(arguments.refusal("model", "a keras.Model", model))


def layers_of(model):
    """The model and all layers in it, those within other layers too."""
    return model._flatten_layers()


def has_batch_normalization(model):
    """Whether some layer normalizes by the statistics of the batch."""
    return any(
        isinstance(layer, keras.layers.BatchNormalization)
        for layer in layers_of(model)
    )


def overrides(model, method):
    """Whether the class of `model` has a method of its own for Keras's."""
    return getattr(type(model), method) is not getattr(keras.Model, method)


def has_own_loss(model):
    """Whether a model on one device has a `compute_loss` of its own."""
    replicas = model.distribute_strategy.num_replicas_in_sync
    return replicas == 1 and overrides(model, "compute_loss")


@tracking.no_automatic_dependency_tracking
def share_compilation(model, wrapper):
    """Lets a compiled wrapper hold what its model is compiled with."""
    for name in _COMPILATION:
        setattr(wrapper, name, getattr(model, name))


class SavedLayer(keras_saveable.KerasSaveable):
    """A model as the file of another one holds it: without its compilation.

    Args:
        model: a `keras.Model`.
    """

    def __init__(self, model):
        self._model = model

    @property
    def path(self):
        """Where Keras puts a model's only layer."""
        return f"layers/{naming.to_snake_case(type(self._model).__name__)}"

    def _obj_type(self):
        return self._model._obj_type()

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __dir__(self):
        return [name for name in dir(self._model) if name not in _COMPILATION]


def is_saved_wrapper(filepath):
    """Whether a file is a model of this library's, saved whole."""
    if not str(filepath).endswith(".keras") or not zipfile.is_zipfile(filepath):
        return False
    with zipfile.ZipFile(filepath) as file:
        config = json.loads(file.read("config.json"))
    return str(config["registered_name"]).startswith("keras_svag>")


def build_layers(model, x):
    """Builds what is not built of a model, by calling it on inputs."""
    if not all(layer.built for layer in layers_of(model)):
        model(x)


def build_training(model, batch):
    """Builds a compiled model, with its losses and metrics, from a batch."""
    # Does nothing without a strategy: losses are then built when traced.
    model._maybe_symbolic_build(data_batch=batch)
    build_layers(model, keras.utils.unpack_x_y_sample_weight(batch)[0])


def build_in_step(model, batch):
    """Builds what a training step on a batch would build on its way."""
    loss = model._compile_loss
    # Those of several outputs have metrics, which are made with them.
    is_complete = loss is None or loss.built or _has_one_output(model)
    if not is_complete or not all(layer.built for layer in layers_of(model)):
        with tf.init_scope():
            model._symbolic_build(data_batch=batch)


def _has_one_output(model):
    return len(getattr(model, "outputs", None) or ()) == 1


def call_in_training_mode(model, x):
    """The outputs of a model as in training: with dropout, for example."""
    if model._call_has_training_arg:
        return model(x, training=True)
    return model(x)


def training_loss(model, x, y, y_pred, sample_weight):
    """The loss that training minimizes, with those that layers add."""
    return model._compute_loss(x, y, y_pred, sample_weight, training=True)


def kept_entries(model, y, y_pred):
    """How many entries the only loss is a mean over; None if it is the rows.

    They are those that a mask keeps and whose class is not ignored.
    """
    losses, outputs = tree.flatten(model.loss), tree.flatten(y_pred)
    if len(outputs) > 1:
        return None
    kept = _mask(outputs[0])
    ignored = _ignored_class(losses[0]) if len(losses) == 1 else None
    if ignored is not None:
        labels = tf.cast(tree.flatten(y)[0], "float32")
        valid = tf.not_equal(labels, float(ignored))
        if kept is not None:
            valid = tf.reshape(valid, tf.shape(kept)) & tf.cast(kept, "bool")
        kept = valid
    return None if kept is None else tf.reduce_sum(tf.cast(kept, "float32"))


def _mask(output):
    return getattr(output, "_keras_mask", None)


def _ignored_class(loss):
    return getattr(loss, "ignore_class", None)


def output_losses(model):
    """Keras's means of the losses of several outputs; none of only one."""
    return [] if model._compile_loss is None else model._compile_loss.metrics


def why_no_mean_over_examples(model, x, y, y_pred):
    """Why the loss of a batch is no mean that halves are known to share.

    Args:
        model: a compiled model that has computed its loss. What its own
            `compute_loss` leaves behind is not taken back.
        x, y, y_pred: of a batch, with values or without.

    Returns:
        A clause that names the reason; None if there is none to be seen.
    """
    outputs = tree.flatten(y_pred)
    losses = tree.flatten(model.loss)
    is_masked = any(_mask(output) is not None for output in outputs)
    ignores = any(_ignored_class(loss) is not None for loss in losses)
    if len(outputs) > 1 and (is_masked or ignores):
        return "several outputs are means over the entries that they keep"
    regularizers = (
        getattr(layer, "activity_regularizer", None)
        for layer in layers_of(model)
    )
    if (is_masked or ignores) and any(regularizers):
        return "a mask does not reach the activity regularizer"
    if ignores:
        return None
    if has_own_loss(model) and not _averages_over_examples(
        lambda *batch: model._compute_loss(*batch, None, training=False),
        x,
        y,
        y_pred,
    ):
        return "`compute_loss` of random examples is no mean of theirs"
    if model._compile_loss is None:
        return None
    for path, loss, _, name in model._compile_loss._flat_losses:
        if not _averages_over_examples(
            loss, *(_at(path, n) for n in (y, y_pred))
        ):
            return f"the loss {name!r} of random examples is no mean of theirs"
    return None


def _at(path, nest):
    for key in path:
        nest = nest[key]
    return nest


def _averages_over_examples(loss, *batch):
    """Tries a loss on random examples; what it cannot take says nothing.

    Args:
        loss: a function of the parts of a batch.
        *batch: the parts, of which the last one is what the model predicts.
    """
    rng, rows = np.random.default_rng(0), 4

    def random_like(tensor, draw):
        if tensor is None:
            return None
        shape = [3 if size is None else size for size in tensor.shape[1:]]
        return tf.cast(draw((rows, *shape)), tensor.dtype)

    def value(part):
        parts = tree.map_structure(
            lambda tensor: None if tensor is None else tensor[part], drawn
        )
        return float(loss(*parts))

    draws = [lambda s: rng.integers(0, 2, s)] * (len(batch) - 1)
    draws.append(lambda s: rng.uniform(0.1, 0.9, s))
    try:
        with tf.init_scope():
            drawn = [
                tree.map_structure(lambda t, d=draw: random_like(t, d), nest)
                for draw, nest in zip(draws, batch, strict=True)
            ]
            whole, again = value(slice(None)), value(slice(None))
            parts = (value(slice(0, None, 2)) + value(slice(1, None, 2))) / 2
    except Exception:
        return True
    # One that is itself random is not to be known by these few.
    return whole != again or not abs(whole - parts) > 1e-3 * abs(whole)


def follows_data(tensor, batch):
    """Whether a tensor of a graph is computed from the values of a batch.

    Args:
        tensor: a tensor of the graph that is being traced; of one that has its
            value already nothing is known, and the answer is no.
        batch: a nest of the graph's tensors. Their shapes are no values.
    """
    if not tf.is_symbolic_tensor(tensor):
        return False
    leaves = tf.nest.flatten(batch, expand_composites=True)
    data = {leaf.op for leaf in leaves if leaf is not None}
    seen, ahead = set(), [tensor.op]
    while ahead:
        operation = ahead.pop()
        if operation in data:
            return True
        if operation not in seen and operation.type not in _SHAPES:
            ahead.extend(source.op for source in operation.inputs)
        seen.add(operation)
    return False


def inner_optimizer(optimizer):
    """The optimizer itself, without the loss scale of mixed precision."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def accumulated_batches(optimizer):
    """Of how many batches an update takes the mean gradient: 1, or more."""
    optimizer = inner_optimizer(optimizer)
    return getattr(optimizer, "gradient_accumulation_steps", None) or 1


# What an optimizer keeps of squared gradients, where √v is taken, and how.
_ROOT_THEN_EPSILON, _EPSILON_IN_ROOT, _IS_ROOT = range(3)
_SECOND_MOMENTS = {
    keras.optimizers.Adam: ("_velocities", _ROOT_THEN_EPSILON),
    keras.optimizers.Nadam: ("_velocities", _ROOT_THEN_EPSILON),
    keras.optimizers.Adamax: ("_u", _IS_ROOT),
    keras.optimizers.RMSprop: ("_velocities", _EPSILON_IN_ROOT),
    keras.optimizers.Adagrad: ("_accumulators", _EPSILON_IN_ROOT),
    SVAGAdam: ("_velocities", _ROOT_THEN_EPSILON),
    SVAGRMSprop: ("_velocities", _EPSILON_IN_ROOT),
}


def _second_moments(optimizer):
    """`(name, form)` of an optimizer's elementwise second moments, or None."""
    for kind, entry in _SECOND_MOMENTS.items():
        if isinstance(optimizer, kind):
            return entry
    return None


def has_second_moments(optimizer):
    """Whether an optimizer divides by the root of elementwise moments.

    Those are Adam, AdamW, Nadam, Adamax, RMSprop, Adagrad, and SVAG for Adam
    and RMSprop. Lion, Muon and Adafactor keep none for each entry.
    """
    return _second_moments(inner_optimizer(optimizer)) is not None


def has_epsilon_in_root(optimizer):
    """Whether it divides by √(v + ε), and not by √v + ε."""
    return _second_moments(inner_optimizer(optimizer))[1] == _EPSILON_IN_ROOT


def inverse_root_second_moments(optimizer, variable, rows=None, epsilon=None):
    """What an optimizer multiplies the gradient of a variable by.

    Args:
        optimizer: a built optimizer that `has_second_moments`.
        variable: one that it trains.
        rows: indices of the rows that are wanted, or None for all.
        epsilon: in place of the optimizer's, if it is not None.

    Returns:
        1 / (√v + ε), or 1 / √(v + ε) where the optimizer has it so; 0 where v
        is.
    """
    name, form = _second_moments(optimizer)
    if epsilon is None:
        # Of SVAG it is scaled, as the second moment is.
        epsilon = getattr(optimizer, "scaled_epsilon", optimizer.epsilon)
    index = optimizer._get_variable_index(variable)

    def moment(name):
        value = tf.convert_to_tensor(getattr(optimizer, name)[index])
        return value if rows is None else tf.gather(value, rows)

    v = moment("_velocity_hats" if getattr(optimizer, "amsgrad", 0) else name)
    norm = v if form == _IS_ROOT else tf.sqrt(v)
    root = norm + epsilon
    if form == _EPSILON_IN_ROOT:
        if getattr(optimizer, "centered", False):
            v -= tf.square(moment("_average_gradients"))
        root = tf.sqrt(v + epsilon)
    return tf.math.divide_no_nan(norm, norm * root)


def learning_rate_schedule(optimizer):
    """The schedule of an optimizer's learning rate, or None."""
    rate = optimizer._learning_rate
    is_schedule = isinstance(
        rate, keras.optimizers.schedules.LearningRateSchedule
    )
    return rate if is_schedule else None


def decayed_variables(model):
    """Trainable variables of a compiled model that weight decay shrinks."""
    optimizer = inner_optimizer(model.optimizer)
    if not optimizer.weight_decay:
        return []
    return [
        v for v in model.trainable_variables if optimizer._use_weight_decay(v)
    ]


def is_chief(strategy):
    """Whether this process is the one that writes files.

    All the workers have to compute what is written: reading a metric is an
    exchange between them.
    """
    return strategy.extended.should_save_summary


def has_several_workers(strategy):
    """Whether `strategy` trains over more than one process."""
    return (
        isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        and strategy.extended._in_multi_worker_mode()
    )


def is_deterministic():
    """Whether TensorFlow was told to give the same bits on every run."""
    return framework_config.is_op_determinism_enabled()


def replicas(variable):
    """The TensorFlow variable of each local replica, or the only one."""
    value = variable.value
    strategy = getattr(value, "distribute_strategy", None)
    if strategy is None:
        strategy = tf.distribute.get_strategy()
    return strategy.experimental_local_results(value)


def keep_static_shapes(epoch_iterator):
    """Keeps the batch size of an epoch's data static over several workers.

    TensorFlow distributes finite data with an unknown batch size there,
    because a last batch may be smaller. Where no batch is, data that repeat
    are the same, and Keras counts an epoch's batches by itself.

    Args:
        epoch_iterator: Keras's `TFEpochIterator`, not yet iterated over.
    """
    strategy = epoch_iterator._distribute_strategy
    data = epoch_iterator.data_adapter.get_tf_dataset()
    if (
        has_several_workers(strategy)
        and isinstance(data, tf.data.Dataset)
        and epoch_iterator.num_batches
        and all(
            spec.shape.is_fully_defined()
            for spec in tf.nest.flatten(data.element_spec)
        )
    ):
        epoch_iterator._distributed_dataset = (
            strategy.experimental_distribute_dataset(data.repeat())
        )
