"""A model that wraps another one and trains it by its own `train_step`."""

import contextlib
import functools
from typing import Any, TypeVar

import keras
import tensorflow as tf
from keras import tree

from keras_svag import arguments
from keras_svag.models.batches import first_rows
from keras_svag.models.internals import (
    SavedLayer,
    accumulated_batches,
    check_model,
    has_several_workers,
    is_saved_wrapper,
    keep_static_shapes,
    overrides,
    share_compilation,
)
from keras_svag.models.preprocessing import preprocessed_fit, preprocesses

_MEAN_REDUCTIONS = ("sum_over_batch_size", "mean")

Wrapper = TypeVar("Wrapper", bound="ModelWrapper")


@keras.saving.register_keras_serializable(package="keras_svag")
class ModelWrapper(keras.Model):
    """A model that trains another one by a `train_step` of its own.

    Everything but the training step is the wrapped model's: calls, masks,
    losses, metrics, dtype policy, steps of `evaluate` and `predict`, layers,
    attributes, weights files. A model that is compiled stays so: optimizer,
    loss and metrics are the same objects, whichever of the two is compiled.
    Subclasses define `train_step`. Without one the model trains as it does
    unwrapped, to the bit, and also where Keras's own `fit` fails: over several
    workers, and if the first batch splits unevenly over the replicas.

    Args:
        model: any `keras.Model` that trains by Keras's own `train_step`. Its
            `compute_loss`, `compute_metrics`, `test_step` and `predict_step`
            may be its own.
        **kwargs: as for any `keras.Model`.

    Raises:
        TypeError: if `model` is no `keras.Model`.
        ValueError: if `model` has its own `train_step`, if it was created
            under another distribution strategy, or if it is compiled with what
            `compile` refuses.
    """

    def __init__(self, model: keras.Model, **kwargs: Any) -> None:
        _check_wrappable(model)
        kwargs.setdefault("dtype", model.dtype_policy)
        # The wrapped model casts its own inputs.
        super().__init__(autocast=False, **kwargs)
        # TensorFlow sets no attribute that has the value already, as one of the
        # wrapped model's has.
        self.optimizer: Any = None
        self.stop_training = False
        self.model = model
        self._saved = SavedLayer(model)
        self.supports_masking = True
        self.built = model.built
        self._evaluating = False
        self._fed = None
        self._rows_of_fit: Any = None
        if model.compiled:
            self._take_compilation()

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.model(inputs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return self.model.compute_mask(inputs, previous_mask)

    def __getattr__(self, name: str) -> Any:
        """What is no attribute of the wrapper is one of the wrapped model."""
        if name.startswith("_") or "_saved" not in self.__dict__:
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}"
            )
        if name == self._saved.path:
            return self._saved
        return getattr(self.model, name)

    def __dir__(self):
        # Keras saves what is listed here. Files hold the wrapped model as the
        # only layer, as they did when `layers` had no other.
        names = set(super().__dir__()) - {"layers", "model", "_saved"}
        return sorted(names | {self._saved.path})

    @property
    def layers(self) -> list[keras.layers.Layer]:
        return self.model.layers

    @property
    def input(self) -> Any:
        return self.model.input

    @property
    def output(self) -> Any:
        return self.model.output

    def get_layer(self, *args: Any, **kwargs: Any) -> keras.layers.Layer:
        return self.model.get_layer(*args, **kwargs)

    def summary(self, *args: Any, **kwargs: Any) -> None:
        self.model.summary(*args, **kwargs)

    def export(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.export(*args, **kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        """Saves the wrapped model's weights, in a file that it can load."""
        self.model.save_weights(*args, **kwargs)

    def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Loads weights that the wrapped model or the wrapper has saved."""
        saved = is_saved_wrapper(filepath)
        load = super().load_weights if saved else self.model.load_weights
        load(filepath, *args, **kwargs)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the wrapped model, by its `compile`, and the wrapper.

        Raises:
            ValueError: if a loss is reduced by other than a mean, or if
                `steps_per_execution` or the optimizer's
                `gradient_accumulation_steps` is above 1 with several replicas.
        """
        self.model.compile(*args, **kwargs)
        self._take_compilation()

    def _take_compilation(self):
        """Trains by what the wrapped model is compiled with."""
        _check_losses(self.model.loss)
        steps = self.model.steps_per_execution
        # Keras fails at both in the depths of the first step.
        for name, value, wanted in (
            ("steps_per_execution", steps, 1),
            (
                "gradient_accumulation_steps",
                accumulated_batches(self.model.optimizer),
                None,
            ),
        ):
            if self._num_replicas > 1 and value > 1:
                wanted = f"{wanted} with {self._num_replicas} replicas"
                raise ValueError(arguments.refusal(name, wanted, value))
        super().compile(
            self.model.optimizer,
            run_eagerly=self.model.run_eagerly,
            steps_per_execution=steps,
            jit_compile=self.model.jit_compile,
            # The optimizer has its loss scale by now, if it is to have one.
            auto_scale_loss=False,
        )
        share_compilation(self.model, self)

    def get_compile_config(self) -> dict[str, Any] | None:
        return self.model.get_compile_config()

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return self.model._compute_loss(*args, **kwargs)

    def compute_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.model.compute_metrics(*args, **kwargs)

    def test_step(self, data: Any) -> Any:
        return self.model.test_step(data)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.predict(*args, **kwargs)

    def predict_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.predict_on_batch(*args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.test_on_batch(*args, **kwargs)

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
    def training_metrics(self) -> list[keras.metrics.Metric]:
        """Metrics that only training updates: kept out of `evaluate`."""
        return []

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [*self.model.metrics, *self._visible_metrics]

    @property
    def _visible_metrics(self):
        return [] if self._evaluating else self.training_metrics

    def reset_metrics(self) -> None:
        self.model.reset_metrics()
        for metric in self._visible_metrics:
            metric.reset_state()

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        if preprocesses(self.model):
            kwargs = preprocessed_fit(
                self.model, x, y, batch_size, *args, **kwargs
            )
            x, y, batch_size, args = kwargs.pop("x"), kwargs.pop("y"), None, ()
        self._trace_anew_unless_fed(x, batch_size)
        # A function, for Keras would take the parts of a nest for its own.
        self._rows_of_fit = functools.partial(first_rows, x)
        try:
            return super().fit(x, y, batch_size, *args, **kwargs)
        finally:
            self._rows_of_fit = None

    def rows_of_fit(self, most: int) -> Any:
        """The first rows of the inputs, while `fit` trains on arrays.

        Returns:
            At most `most` rows, nested as the inputs are; None otherwise.
        """
        return None if self._rows_of_fit is None else self._rows_of_fit(most)

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if preprocesses(self.model):
            batch = self.model.preprocess_samples(x, y, sample_weight)
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        self._trace_anew_unless_fed(x, None)
        return super().train_on_batch(x, y, sample_weight, *args, **kwargs)

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

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        # Within `fit`, Keras has the data, which are preprocessed.
        within_fit = kwargs.get("_use_cached_eval_dataset", False)
        if overrides(self.model, "evaluate") and not within_fit:
            return self.model.evaluate(*args, **kwargs)
        with self._training_metrics_hidden():
            return super().evaluate(*args, **kwargs)

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

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config["model"] = keras.saving.serialize_keras_object(self.model)
        return config

    @classmethod
    def from_config(
        cls: type[Wrapper],
        config: dict[str, Any],
        custom_objects: dict[str, Any] | None = None,
    ) -> Wrapper:
        # The wrapper compiles its model, by what it is compiled with itself.
        inner = {**config["model"]}
        inner.pop("compile_config", None)
        model = keras.saving.deserialize_keras_object(
            inner, custom_objects=custom_objects
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
    if overrides(model, "train_step"):
        raise ValueError(
            "`model` must train by Keras's own train_step, got "
            f"{type(model).__name__}, whose `train_step` the wrapper would not "
            "call; put the loss into `compute_loss`, or leave the model as it "
            "is and measure it beside training, by "
            "keras_svag.measure_gradient_noise(model, dataset, ...) or the "
            "callback keras_svag.ScalingRuleCheck(probe=dataset)."
        )
    strategy = model.distribute_strategy
    if strategy is not tf.distribute.get_strategy():
        raise ValueError(
            "`model` was created under another distribution strategy than the "
            "wrapper; wrap it inside `with strategy.scope():` too."
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
