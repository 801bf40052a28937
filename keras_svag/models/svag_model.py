"""A model that trains another one on the pairs of each batch."""

import warnings
from typing import Any

import keras

from keras_svag import arguments, backend
from keras_svag.optimizers.paired import PairedOptimizer


@keras.saving.register_keras_serializable(package="keras_svag")
class SVAGModel(backend.PairTrainer):
    """Trains a model by SVAG on the even and the odd rows of each batch.

    Both gradients are computed at the same weights, one half after the other,
    then mixed by the weights of the optimizer, and applied.

    ```python
    svag_model = keras_svag.SVAGModel(model)
    svag_model.compile(keras_svag.SVAG(0.1, ell=4), loss="mse")
    svag_model.fit(x, y, batch_size=128)
    ```

    The optimizer is `SVAG`, `SVAGAdam` or `SVAGRMSprop`. It also trains a plain
    model, whose pairs are then consecutive batches, to the same weights.

    Loss and metrics are those of the whole batch; the model's own
    `compute_loss`, `compute_metrics` and `test_step` compute them. What
    `compute_metrics` adds to the logs is the mean of the halves'. Dropout
    draws anew for each half; BatchNormalization normalizes each by its own
    statistics. With `ell=1` and `pairing="independent"` the second half has
    weight 0: nothing of it is computed, unless it is observed, and loss and
    metrics are those of the first.

    The halves are equal. The last row of an odd batch is left out, and so is a
    batch that is smaller than those of `fit`, or than the largest one so far.
    Under a strategy of replicas batches need a static number of rows.

    A `keras_svag.GradientNoiseMonitor` in `callbacks` is given the noise of
    these pairs at every step, at no cost.

    Args:
        model: Any `keras.Model`. Compiled, it is trained by what it is compiled
            with; `compile` compiles both.
        **kwargs: `name` and the like, as for any `keras.Model`.

    Attributes:
        model: The model that was given, which is trained; the one to export.

    Raises:
        TypeError: If `model` is no `keras.Model`.
        ValueError: If `model` has a `train_step` of its own; by `compile`, if
            the optimizer is another one or trains a plain model already; while
            tracing, if replicas get batches of unknown size.

    References:
        [Li, Malladi, Arora, 2021](https://arxiv.org/abs/2102.12470)
    """

    def __init__(self, model: keras.Model, **kwargs: Any) -> None:
        backend.check_model(model)
        if backend.overrides(model, "train_step"):
            raise ValueError(
                "`model` must train by Keras's own train_step, got "
                f"{type(model).__name__}, whose `train_step` SVAGModel would "
                "not call; put the loss into `compute_loss`, or compile the "
                "model itself with keras_svag.SVAG, which pairs consecutive "
                "batches."
            )
        kwargs.setdefault("dtype", model.dtype_policy)
        # The model in it casts its own inputs.
        super().__init__(autocast=False, **kwargs)
        self.model = model
        self.supports_masking = True
        self.built = model.built
        optimizer = model.compiled and model.optimizer
        if isinstance(backend.without_loss_scale(optimizer), PairedOptimizer):
            self._take_compilation()

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.model(inputs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return self.model.compute_mask(inputs, previous_mask)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the model in it, by its `compile`, and this one."""
        self.model.compile(*args, **kwargs)
        self._take_compilation()

    def _take_compilation(self):
        model = self.model
        optimizer = backend.without_loss_scale(model.optimizer)
        if not isinstance(optimizer, PairedOptimizer):
            raise arguments.wrong(
                "optimizer",
                "SVAG, SVAGAdam or SVAGRMSprop in an SVAGModel",
                type(model.optimizer).__name__,
                "compile the model itself, whose gradient noise the "
                "callback keras_svag.GradientNoiseMonitor measures",
            )
        optimizer.pair_within_step()
        super().compile(
            model.optimizer,
            run_eagerly=model.run_eagerly,
            steps_per_execution=model.steps_per_execution,
            jit_compile=model.jit_compile,
            # The optimizer has its loss scale by now, if it is to have one.
            auto_scale_loss=False,
        )
        is_split = optimizer.pairing == "halves"
        if is_split and backend.has_batch_normalization(model):
            warnings.warn(
                "pairing='halves' with BatchNormalization: each half is "
                "normalized by its own statistics, which is another noise "
                "model than SGD's at the whole batch; use "
                "pairing='independent'.",
                stacklevel=3,
            )

    def get_compile_config(self) -> dict[str, Any] | None:
        return self.model.get_compile_config()

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        return backend.training_loss(
            self.model, x, y, y_pred, sample_weight, training
        )

    def compute_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.model.compute_metrics(*args, **kwargs)

    def test_step(self, *args: Any) -> Any:
        return self.model.test_step(*args)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return self.model.metrics

    def get_metrics_result(self) -> dict[str, Any]:
        return self.model.get_metrics_result()

    def reset_metrics(self) -> None:
        self.model.reset_metrics()

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Exports the model in it."""
        self.model.export(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        model = keras.saving.serialize_keras_object(self.model)
        # This model compiles the one in it.
        model.pop("compile_config", None)
        return {**super().get_config(), "model": model}

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        custom_objects: dict[str, Any] | None = None,
    ) -> "SVAGModel":
        model = keras.saving.deserialize_keras_object(
            config["model"], custom_objects=custom_objects
        )
        return cls(**{**config, "model": model})
