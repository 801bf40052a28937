"""The log keys of the gradient noise, as docs and users know them."""

import keras

NOISE = {
    "grad_sq_norm",
    "noise_trace",
    "noise_to_signal",
    "noise_scale",
    "weight_sq_norm",
}
PRECONDITIONED = {
    "preconditioned_grad_sq_norm",
    "preconditioned_noise_trace",
    "preconditioned_noise_to_signal",
}
_ADAPTIVE = set(
    "adam adamw nadam adamax rmsprop adagrad svagadam svagrmsprop".split()
)


def noise_keys(optimizer):
    """The keys that an `SVAGModel` adds with an optimizer."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    optimizer = keras.optimizers.get(optimizer)
    is_adaptive = type(optimizer).__name__.lower() in _ADAPTIVE
    return NOISE | (PRECONDITIONED if is_adaptive else set())
