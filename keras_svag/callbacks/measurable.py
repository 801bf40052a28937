"""What a monitor cannot measure, and how it says so."""

import re
from typing import Any

import keras

from keras_svag import backend

# What has a terminal print Keras's errors in bold; a KeyError shows escapes.
_STYLE = re.compile(r"(?:\x1b|\\x1b)\[\d*m|\\n")


def check_measurable(
    monitor: str, model: keras.Model, loss: Any, data: backend.FitData
) -> None:
    """Raises a `ValueError` if there is no loss of half a batch."""
    why = None
    if not backend.overrides(model, "call"):
        why = (
            f"computes the loss from `model(x)`, and {type(model).__name__} "
            "has no `call`; give it one, and its loss as `loss`, or leave the "
            "callback out where several losses are trained in turn, as in a "
            "GAN."
        )
    elif (
        loss is None
        and backend.has_own_step(model)
        and not backend.overrides(model, "compute_loss")
        and model.loss is None
    ):
        why = (
            f"does not know the loss of {type(model).__name__}, whose own "
            "`train_step` computes it; give it as `loss`, a function of (y, "
            "y_pred), or of (x, y_pred) where the data have no targets y, or "
            "compute it in the model's `compute_loss`."
        )
    elif backend.has_fixed_batch_size(model):
        why = (
            f"halves every batch, and the model {model.name!r} takes batches "
            f"of one size only: {backend.CANNOT_HALVE}"
        )
    elif data.batch_size == 1:
        why = (
            "halves every batch, and those of this fit have one row: "
            f"{backend.CANNOT_HALVE}"
        )
    if why:
        raise ValueError(f"{monitor} {why}")


def failed_half(monitor: str, model: keras.Model, error: Exception) -> str:
    """What is said where the loss of half a batch cannot be computed."""
    why = " ".join(_STYLE.sub(" ", str(error)).split())
    return (
        f"{monitor} cannot compute the loss of half a batch from `model(x)` of "
        f"{model.name!r} ({type(error).__name__}: {why:.300}); where a "
        "`train_step` computes it otherwise, do so in the model's "
        "`compute_loss`, and where it is that of whole batches only, "
        f"{backend.CANNOT_HALVE}"
    )
