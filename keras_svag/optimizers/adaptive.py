"""SVAG for RMSprop and Adam: simulates their SDEs by an optimizer."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_svag import arguments
from keras_svag.optimizers.paired import (
    WIDEST,
    LearningRate,
    PairedOptimizer,
    Pairing,
    dense,
)


class _Adaptive(PairedOptimizer):
    """A pair's step over the root of an older second moment."""

    def _time_of_step(self, learning_rate):
        return learning_rate**2 / self.ell

    def _moved(self, average, value, decay_rate):
        """A moving average after one of the `ell` parts of a step."""
        rate = (1 - decay_rate) / self.ell
        change = ops.multiply(ops.subtract(value, average), rate)
        return ops.add(average, change)

    def _second_moment(self, mixed, variable, decay_rate):
        """What to divide by, and the second moment with its new value.

        A coordinate of which nothing is known yet, whose moment is 0 or far
        too small, would be thrown away by a division: the moment is at least
        what the gradient alone makes of it.
        """
        old = self._velocities[self._get_variable_index(variable)]
        square = ops.square(mixed)
        own = ops.multiply(square, (1 - decay_rate) / self.ell)
        new = self._moved(old, square, decay_rate)
        return ops.maximum(old, own), (old, new)


@keras.saving.register_keras_serializable(package="keras_svag")
class SVAGRMSprop(_Adaptive):
    """SVAG for RMSprop: simulates the SDE of RMSprop.

    Update rule for parameter `x` with gradients `g1`, `g2` of two
    mini-batches, all hyperparameters being those of the RMSprop that is
    simulated:

    ```python
    w1, w2 = svag_weights(ell, pairing)
    g = w1 * g1 + w2 * g2
    part = (1 - rho) / ell
    root = sqrt(maximum(v, part * g**2) + epsilon * ell)
    step = learning_rate / sqrt(ell) * g / root
    x = x - step - learning_rate * weight_decay / ell * x
    v = v + part * (g**2 - v)
    ```

    One step of RMSprop takes `ell` of these. As `ell` grows, this follows the
    SDE of RMSprop [M22], whose `l**2` is `ell`. A coordinate's gradient of mean
    m and variance s has a drift of `m / sqrt(m**2 / ell + s)` (derived).

    The gradient is divided by the *old* second moment `v`, as in [M22], which
    does not depend on it. It takes the gradient's own part of the new one only
    where that is larger: in the first step, which is Keras's own, for a
    coordinate that had no gradient so far, and for rare outliers. So no step is
    longer than RMSprop's can be. But for that convention `ell=1` is
    `keras.optimizers.RMSprop`, with `epsilon` inside the root and decoupled
    weight decay.

    RMSprop starts with `v = 0` and does not correct for it: its first
    `1 / (1 - rho)` steps are too long, and the displacement in them has a
    variance that grows as ln `ell` (derived). There, no SDE is approximated.

    On a plain model each pair is two consecutive batches, inside a
    `keras_svag.SVAGModel` the even and the odd rows of each batch, as for
    `keras_svag.SVAG`. Sparse gradients train as dense ones.

    Args:
        learning_rate: RMSprop's learning rate: a float >= 0, a
            `keras.optimizers.schedules.LearningRateSchedule`, which is given
            whole RMSprop steps, or a callable without arguments.
        rho: float in [0, 1), the decay rate of the second moment.
        epsilon: float >= 0, added to the second moment.
        ell: integer >= 1, the amplification.
        pairing: `"independent"` or `"halves"`, as for `keras_svag.SVAG`.
        weight_decay: `None` or a float >= 0, decoupled: RMSprop takes
            `learning_rate * weight_decay * x` from `x` in a step.
        name: name of the optimizer.
        **kwargs: `loss_scale_factor`, as for any Keras optimizer.

    Attributes:
        gradient_weights: `(w1, w2)`, floats.
        learning_rate: RMSprop's learning rate; settable.
        effective_iterations: steps done / `ell`, a float: RMSprop's steps.
        continuous_time: sum over the steps of `learning_rate**2 / ell`: the
            time of the SDE, a float64 variable (float32 on JAX).

    Raises:
        TypeError: if an argument is no number where one is wanted.
        ValueError: if an argument is out of range, or is one that cannot be
            honoured: `momentum`, `centered`, clipping, `use_ema`,
            `gradient_accumulation_steps`; when it is built, if it was created
            outside the strategy of the model.

    References:
        - [M22] [Malladi, Lyu, Panigrahi, Arora, 2022](
          https://arxiv.org/abs/2205.10287)
    """

    _refused = {
        "momentum": "the SDE is that of RMSprop without; SVAGAdam has one",
        "centered": "the SDE is that of RMSprop with the plain second moment",
    }

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        rho: float = 0.9,
        epsilon: float = 1e-7,
        *,
        ell: int = 1,
        pairing: Pairing = "independent",
        weight_decay: float | None = None,
        name: str = "svag_rmsprop",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate, ell, pairing, weight_decay, name, **kwargs
        )
        self.rho = _decay_rate("rho", rho)
        self.epsilon = _epsilon(epsilon)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        (self._velocities,) = self._add_like(variables, "velocity")

    @property
    def scaled_epsilon(self) -> float:
        """What is added to v, which ell times the noise makes larger."""
        return self.epsilon * self.ell

    def _step(self, mixed, variable, learning_rate):
        mixed = dense(mixed, variable)
        moment, update = self._second_moment(mixed, variable, self.rho)
        root = ops.sqrt(ops.add(moment, self.scaled_epsilon))
        # Rounded once, or the graph around it decides on the last bit.
        step_size = ops.cast(learning_rate, WIDEST) / math.sqrt(self.ell)
        step_size = ops.cast(step_size, variable.dtype)
        return ops.divide(ops.multiply(mixed, step_size), root), [update]

    def get_config(self) -> dict[str, Any]:
        own = {"rho": self.rho, "epsilon": self.epsilon}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="keras_svag")
class SVAGAdam(_Adaptive):
    """SVAG for Adam: simulates the SDE of Adam.

    Update rule for parameter `x` in step `t = 1, 2, …` with gradients `g1`,
    `g2` of two mini-batches, all hyperparameters being those of the Adam that
    is simulated:

    ```python
    w1, w2 = svag_weights(ell, pairing)
    g = w1 * g1 + w2 * g2
    part_1, part_2 = (1 - beta_1) / ell, (1 - beta_2) / ell
    m = m + part_1 * (g - m)
    seen_1 = 1 - (1 - part_1)**t
    seen_2 = 1 - (1 - part_2)**max(t - 1, 1)
    root = sqrt(maximum(v, part_2 * g**2)) + epsilon * sqrt(ell)
    step = learning_rate / sqrt(ell) * sqrt(seen_2) / seen_1 * m / root
    x = x - step - learning_rate * weight_decay / ell * x
    v = v + part_2 * (g**2 - v)
    ```

    One step of Adam takes `ell` of these. As `ell` grows, this follows the SDE
    of Adam [M22], whose `l**2` is `ell`. A coordinate's gradient of mean m and
    variance s has a drift of `m / sqrt(m**2 / ell + s)` (derived).

    The mean gradient is divided by the *old* second moment `v`, as in [M22],
    which does not depend on this step's gradient; `seen_1` and `seen_2` are
    Keras's bias corrections, each for the steps that its moment has seen. The
    moment takes the gradient's own part of the new one only where that is
    larger: in the first step, which is Keras's own, for a coordinate that had
    no gradient so far, and for rare outliers. Divided by `v` alone, such
    coordinates would be thrown off: where a gradient was 0 first, by
    `learning_rate / epsilon` times the next one. But for that convention
    `ell=1` is `keras.optimizers.Adam`, and with weight decay
    `keras.optimizers.AdamW`.

    On a plain model each pair is two consecutive batches, inside a
    `keras_svag.SVAGModel` the even and the odd rows of each batch, as for
    `keras_svag.SVAG`. Sparse gradients train as dense ones.

    Args:
        learning_rate: Adam's learning rate: a float >= 0, a
            `keras.optimizers.schedules.LearningRateSchedule`, which is given
            whole Adam steps, or a callable without arguments.
        beta_1: float in [0, 1), the decay rate of the mean gradient.
        beta_2: float in [0, 1), the decay rate of the second moment.
        epsilon: float >= 0, added to the root of the second moment, which is
            not corrected for its bias, as in Keras.
        ell: integer >= 1, the amplification.
        pairing: `"independent"` or `"halves"`, as for `keras_svag.SVAG`.
        weight_decay: `None` or a float >= 0, decoupled: Adam takes
            `learning_rate * weight_decay * x` from `x` in a step.
        name: name of the optimizer.
        **kwargs: `loss_scale_factor`, as for any Keras optimizer.

    Attributes:
        gradient_weights: `(w1, w2)`, floats.
        learning_rate: Adam's learning rate; settable.
        effective_iterations: steps done / `ell`, a float: Adam's steps.
        continuous_time: sum over the steps of `learning_rate**2 / ell`: the
            time of the SDE, a float64 variable (float32 on JAX).

    Raises:
        TypeError: if an argument is no number where one is wanted.
        ValueError: if an argument is out of range, or is one that cannot be
            honoured: `amsgrad`, clipping, `use_ema`,
            `gradient_accumulation_steps`; when it is built, if it was created
            outside the strategy of the model.

    References:
        - [M22] [Malladi, Lyu, Panigrahi, Arora, 2022](
          https://arxiv.org/abs/2205.10287)
    """

    _refused = {"amsgrad": "the SDE is that of Adam without it"}

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        *,
        ell: int = 1,
        pairing: Pairing = "independent",
        weight_decay: float | None = None,
        name: str = "svag_adam",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate, ell, pairing, weight_decay, name, **kwargs
        )
        self.beta_1 = _decay_rate("beta_1", beta_1)
        self.beta_2 = _decay_rate("beta_2", beta_2)
        self.epsilon = _epsilon(epsilon)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self._momentums, self._velocities = self._add_like(
            variables, "momentum", "velocity"
        )

    @property
    def scaled_epsilon(self) -> float:
        """What is added to √v, which ell times the noise makes larger."""
        return self.epsilon * math.sqrt(self.ell)

    def _step(self, mixed, variable, learning_rate):
        mixed = dense(mixed, variable)
        old_mean = self._momentums[self._get_variable_index(variable)]
        mean = self._moved(old_mean, mixed, self.beta_1)
        moment, update = self._second_moment(mixed, variable, self.beta_2)
        root = ops.add(ops.sqrt(moment), self.scaled_epsilon)
        done = self._steps()
        seen = ops.sqrt(self._seen(self.beta_2, ops.maximum(done, 1)))
        correction = seen / self._seen(self.beta_1, done + 1)
        step_size = ops.cast(learning_rate, WIDEST) / math.sqrt(self.ell)
        step_size = ops.cast(step_size * correction, variable.dtype)
        step = ops.divide(ops.multiply(mean, step_size), root)
        return step, [(old_mean, mean), update]

    def _seen(self, decay_rate, steps):
        """Sum of the weights that a moving average gives to its steps.

        By logarithms in float64: a rate of a large `ell` is nearly 1.
        """
        rate = (1 - decay_rate) / self.ell
        log_rate = math.log1p(-rate) if rate < 1 else -math.inf
        return -ops.expm1(ops.cast(steps, WIDEST) * log_rate)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


def _decay_rate(name, value):
    return float(arguments.number(name, value, least=0, below=1))


def _epsilon(value):
    return float(arguments.number("epsilon", value, least=0))
