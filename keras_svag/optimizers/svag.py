"""SVAG, the simulation of SGD's SDE by an optimizer."""

from typing import Any

import keras
from keras import ops

from keras_svag.optimizers.paired import (
    PAIRINGS,
    LearningRate,
    PairedOptimizer,
    Pairing,
    svag_weights,
)

__all__ = ["PAIRINGS", "SVAG", "svag_weights"]

_MOMENTUM = "SVAG's theory is that of SGD without momentum"


@keras.saving.register_keras_serializable(package="keras_svag")
class SVAG(PairedOptimizer):
    """Stochastic Variance Amplified Gradient: simulates the SDE of SGD.

    Update rule for parameter `x` with gradients `g1`, `g2` of two
    mini-batches, all hyperparameters being those of the SGD that is simulated:

    ```python
    w1, w2 = svag_weights(ell, pairing)
    x = x - learning_rate / ell * (w1 * g1 + w2 * g2 + weight_decay * x)
    ```

    As `ell` grows, with `learning_rate` and the simulated time fixed, this is
    an order-1 weak approximation in 1/`ell` of SGD's Itô SDE
    `dX = -∇L(X) dt + (learning_rate Σ(X))^(1/2) dW`. One SGD step takes `ell`
    SVAG steps; `ell=1` is SGD.

    On a plain model (`model.compile(optimizer=SVAG(...))`) each pair is two
    consecutive batches: the first one's gradient is kept, the second one
    completes the step. Inside a `keras_svag.SVAGModel` the pair is made of the
    even and the odd rows of each batch, and nothing is kept. Which of the two
    gradients gets w1 is drawn anew in each step, by a hash of its number; with
    `ell=1` and `"independent"`, where w2 is 0, it is the first one.

    Args:
        learning_rate: SGD's learning rate: a float >= 0, a
            `keras.optimizers.schedules.LearningRateSchedule`, which is given
            whole SGD steps, or a callable without arguments.
        ell: integer >= 1, the amplification.
        pairing: `"independent"` (the sub-batches have SGD's batch size B) or
            `"halves"` (they have size B/2, at half the cost; for models whose
            per-example gradients do not depend on the rest of the batch).
        weight_decay: `None` or a float >= 0: adds `weight_decay * x` to the
            gradient; it is never amplified.
        name: name of the optimizer.
        **kwargs: `loss_scale_factor`, as for any Keras optimizer.

    Attributes:
        gradient_weights: `(w1, w2)`, floats.
        learning_rate: SGD's learning rate; settable. The step taken is
            `learning_rate / ell`.
        effective_iterations: SVAG steps done / `ell`, a float: SGD steps.
        continuous_time: sum over the steps of `learning_rate / ell`: the time
            of the SDE, a float64 variable (float32 on JAX).

    Raises:
        TypeError: if an argument is no number where one is wanted.
        ValueError: if an argument is out of range, or is one that SVAG cannot
            honour: momentum, clipping, `use_ema`,
            `gradient_accumulation_steps`; when it is built, if it was created
            outside the strategy of the model.

    References:
        - [Li, Malladi, Arora, 2021](https://arxiv.org/abs/2102.12470),
          Theorem 4.3
    """

    _refused = {"momentum": _MOMENTUM, "nesterov": _MOMENTUM}

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        *,
        ell: int = 1,
        pairing: Pairing = "independent",
        weight_decay: float | None = None,
        name: str = "svag",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate, ell, pairing, weight_decay, name, **kwargs
        )

    def _step(self, mixed, variable, learning_rate):
        return ops.multiply(mixed, learning_rate / self.ell), []

    def _time_of_step(self, learning_rate):
        return learning_rate / self.ell
