"""What SVAG accepts as its hyperparameters, and what it refuses."""

import math
import numbers

import keras
from keras import ops

_CLIPPING = (
    "clipping the mixed gradient biases the SDE, and clipping its parts apart "
    "is not the clipping of a batch"
)
_MOMENTUM = "its theory is that of SGD without momentum"
_REFUSED = {
    "momentum": _MOMENTUM,
    "nesterov": _MOMENTUM,
    "clipnorm": _CLIPPING,
    "clipvalue": _CLIPPING,
    "global_clipnorm": _CLIPPING,
    "use_ema": "Keras moves the average at every batch, SVAG steps once per "
    "pair",
    "gradient_accumulation_steps": "SVAG mixes gradients by pairs, with "
    "weights of its own",
}


def refuse_unsupported(kwargs):
    """Takes what SVAG cannot honour out of `kwargs`; it must be off.

    Args:
        kwargs: dict of arguments of a Keras optimizer.

    Raises:
        ValueError: if momentum, clipping, `use_ema` or gradient
            accumulation is on.
    """
    for argument, reason in _REFUSED.items():
        value = kwargs.pop(argument, None)
        if value is not None and value is not False:
            raise ValueError(
                f"SVAG does not take `{argument}` (got {value!r}): "
                f"{reason}; leave it out."
            )


def checked_learning_rate(learning_rate):
    """Keras's kinds of learning rates as they are, a number as a float."""
    if callable(learning_rate) or isinstance(learning_rate, dict):
        return learning_rate
    if ops.is_tensor(learning_rate) or isinstance(
        learning_rate, keras.Variable
    ):
        learning_rate = float(learning_rate)
    return nonnegative("learning_rate", learning_rate)


def nonnegative(argument, value):
    """`value` as a float; a ValueError naming `argument` if it is no such."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        number = math.nan
    else:
        number = float(value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(
            f"`{argument}` must be a finite number >= 0, got {value!r}."
        )
    return number
