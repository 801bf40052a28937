"""A model that wraps another one and trains it by its own `train_step`."""

import contextlib

import keras
import tensorflow as tf
from keras import tree

from keras_svag import arguments
from keras_svag.models.internals import (
    check_model,
    has_several_workers,
    keep_static_shapes,
    overrides,
)

_MEAN_REDUCTIONS = ("sum_over_batch_size", "mean")
_KERAS_ONLY = ("train_step", "test_step", "compute_metrics")


@keras.saving.register_keras_serializable(package="keras_svag")
class ModelWrapper(keras.Model):
    """A model that trains another one by a `train_step` of its own.

    Everything but the training step is the wrapped model's: calls, masks,
    losses, metrics, dtype policy, saving. Subclasses define `train_step`.
    Without one the model trains as it does unwrapped, to the bit, and also
    where Keras's own `fit` fails: over several workers, and if the first batch
    splits unevenly over the replicas.

    Args:
        model: any `keras.Model` that trains by Keras's own `train_step`. Its
            `compute_loss` may be its own.
        **kwargs: as for any `keras.Model`.

    Raises:
        TypeError: if `model` is no `keras.Model`.
        ValueError: if `model` has its own `train_step`.
    """

    def __init__(self, model, **kwargs):
        _check_wrappable(model)
        kwargs.setdefault("dtype", model.dtype_policy)
        # The wrapped model casts its own inputs.
        super().__init__(autocast=False, **kwargs)
        self.model = model
        self.supports_masking = True
        self.built = model.built
        self._evaluating = False
        self._fed = None

    def call(self, inputs, training=None):
        return self.model(inputs)

    def compute_mask(self, inputs, previous_mask):
        return self.model.compute_mask(inputs, previous_mask)

    @property
    def output_names(self):
        return self.model.output_names

    def compile(self, optimizer="rmsprop", loss=None, **kwargs):
        """Configures the model for training, as `keras.Model.compile` does.

        Raises:
            ValueError: if a loss is reduced by other than a mean, or if
                `steps_per_execution` is above 1 with several replicas.
        """
        _check_losses(loss)
        steps = kwargs.get("steps_per_execution", 1)
        if self._num_replicas > 1 and steps > 1:
            wanted = f"1 with {self._num_replicas} replicas"
            raise ValueError(
                arguments.refusal("steps_per_execution", wanted, steps)
            )
        super().compile(optimizer=optimizer, loss=loss, **kwargs)
        if overrides(self.model, "compute_loss"):
            # It reads the compiled loss from the model that it belongs to.
            self.model._compile_loss = self._compile_loss

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def compute_loss(self, *args, **kwargs):
        if overrides(self.model, "compute_loss"):
            return self.model._compute_loss(*args, **kwargs)
        return super().compute_loss(*args, **kwargs)

    @property
    def _num_replicas(self):
        return self.distribute_strategy.num_replicas_in_sync

    def _count_loss(self, loss, rows):
        """Adds the loss of so many of an epoch's examples."""
        # Keras divides a loss by the number of replicas.
        self._loss_tracker.update_state(
            loss * self._num_replicas, sample_weight=rows
        )

    @property
    def training_metrics(self):
        """Metrics that only training updates: kept out of `evaluate`."""
        return []

    @property
    def metrics(self):
        metrics = super().metrics
        metrics.extend(m for m in self.model._metrics if m not in metrics)
        hidden = self.training_metrics if self._evaluating else []
        return [m for m in metrics if m not in hidden]

    def fit(self, x=None, y=None, batch_size=None, *args, **kwargs):
        self._trace_anew_unless_fed(x, batch_size)
        return super().fit(x, y, batch_size, *args, **kwargs)

    def train_on_batch(self, x, *args, **kwargs):
        self._trace_anew_unless_fed(x, None)
        return super().train_on_batch(x, *args, **kwargs)

    def _trace_anew_unless_fed(self, x, batch_size):
        # A function traced for two batch sizes has a dynamic one, and no
        # batch of unknown size can be split.
        shapes = [getattr(leaf, "shape", None) for leaf in tree.flatten(x)]
        fed = str((batch_size, shapes, getattr(x, "element_spec", None)))
        if self._needs_static_rows and self._fed not in (None, fed):
            self.train_function = None
        self._fed = fed

    @property
    def _needs_static_rows(self):
        return True

    def evaluate(self, *args, **kwargs):
        with self._training_metrics_hidden():
            return super().evaluate(*args, **kwargs)

    def test_on_batch(self, *args, **kwargs):
        with self._training_metrics_hidden():
            return super().test_on_batch(*args, **kwargs)

    @contextlib.contextmanager
    def _training_metrics_hidden(self):
        self._evaluating = True
        try:
            yield
        finally:
            self._evaluating = False

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras draws a batch and reduces it over the replicas, which fails
        # where it splits unevenly and over several workers. Shapes will do.
        strategy = self._distribute_strategy
        if strategy is not None and iterator is not None:
            keep_static_shapes(iterator)
            data = iterator.data_adapter.get_tf_dataset()
            if isinstance(data, tf.data.Dataset):
                data_batch = tree.map_structure(
                    lambda spec: _of_one_replica(spec, self._num_replicas),
                    data.element_spec,
                )
                iterator = None
        super()._maybe_symbolic_build(iterator, data_batch)

    def _make_function(self, step_function):
        if has_several_workers(self.distribute_strategy):
            step_function = with_logs_as_vectors(step_function)
        return super()._make_function(step_function)

    def get_config(self):
        config = super().get_config()
        config["model"] = keras.saving.serialize_keras_object(self.model)
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        model = keras.saving.deserialize_keras_object(
            config["model"], custom_objects=custom_objects
        )
        return cls(**{**config, "model": model})


def _of_one_replica(spec, replicas):
    shape = getattr(spec, "shape", None)
    if shape is None:
        return None  # An optional part of a batch that is not there.
    if not shape.rank:
        return spec
    rows, *rest = shape
    if rows is not None:
        rows = rows // replicas if rows % replicas == 0 else None
    return tf.TensorSpec([rows, *rest], spec.dtype)


def _check_wrappable(model):
    check_model(model)
    for method in _KERAS_ONLY:
        if overrides(model, method):
            raise ValueError(
                "`model` must train by Keras's own train_step, got "
                f"{type(model).__name__}, whose `{method}` the wrapper would "
                "not call; put the loss into `compute_loss` and compile the "
                "metrics."
            )


def _check_losses(loss):
    for part in tree.flatten(loss):
        reduction = getattr(part, "reduction", "mean")
        if reduction not in _MEAN_REDUCTIONS:
            raise ValueError(
                "`loss` must be a mean over the examples, so that the parts "
                "of a batch average to it, got "
                f"{type(part).__name__}(reduction={reduction!r}); use "
                "reduction='sum_over_batch_size'."
            )


def with_logs_as_vectors(step_function):
    """A training or test step whose logs are vectors of one element.

    Keras averages the logs over the workers along their first axis, which
    scalars do not have: the average takes the axis away again.
    """

    def step(data):
        return tree.map_structure(lambda log: log[None], step_function(data))

    return step
