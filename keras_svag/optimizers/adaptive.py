"""RMSprop and Adam as SVAG, the simulation of their SDEs."""

import math

import keras
from keras import ops

from keras_svag import arguments
from keras_svag.optimizers.paired import PairedOptimizer, dense


class _Adaptive(PairedOptimizer):
    """What RMSprop and Adam share: a second moment, older than the gradient."""

    def _set_epsilon(self, epsilon):
        self.epsilon = float(arguments.number("epsilon", epsilon, least=0))

    def _time_of_step(self, learning_rate):
        return learning_rate**2 / self.ell

    def _followed(self, moment, value, decay_rate):
        """A moving average, moved by one of its `ell` parts of a step."""
        rate = (1 - decay_rate) / self.ell
        return ops.add(moment, ops.multiply(ops.subtract(value, moment), rate))

    def _second_moment(self, gradient, variable, decay_rate):
        """The second moment to divide by, and `(variable, its new value)`.

        What is divided by is the old one, which does not depend on the
        gradient, unless the gradient alone would raise the moment above it.
        """
        old = self._velocities[self._get_variable_index(variable)]
        square = ops.square(gradient)
        own = ops.multiply(square, (1 - decay_rate) / self.ell)
        new = self._followed(old, square, decay_rate)
        return ops.maximum(old, own), (old, new)


@keras.saving.register_keras_serializable(package="keras_svag")
class SVAGRMSprop(_Adaptive):
    def __init__(
        self,
        learning_rate=0.001,
        rho=0.9,
        epsilon=1e-7,
        ell=1,
        pairing="independent",
        weight_decay=None,
        name="svag_rmsprop",
        **kwargs,
    ):
        super().__init__(
            learning_rate, ell, pairing, weight_decay, name, **kwargs
        )
        self.rho = _decay_rate("rho", rho)
        self._set_epsilon(epsilon)

    _refused = {
        "momentum": "its SDE is known without; SVAGAdam has one",
        "centered": "its SDE is known for the plain second moment only",
    }

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._velocities = self.add_optimizer_variables(variables, "velocity")

    def _step(self, mixed, variable, learning_rate):
        mixed = dense(mixed, variable)
        moment, update = self._second_moment(mixed, variable, self.rho)
        root = ops.sqrt(ops.add(moment, self.epsilon * self.ell))
        step_size = learning_rate / math.sqrt(self.ell)
        return ops.divide(ops.multiply(mixed, step_size), root), [update]

    def get_config(self):
        config = super().get_config()
        config.update({"rho": self.rho, "epsilon": self.epsilon})
        return config


@keras.saving.register_keras_serializable(package="keras_svag")
class SVAGAdam(_Adaptive):
    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        ell=1,
        pairing="independent",
        weight_decay=None,
        name="svag_adam",
        **kwargs,
    ):
        super().__init__(
            learning_rate, ell, pairing, weight_decay, name, **kwargs
        )
        self.beta_1 = _decay_rate("beta_1", beta_1)
        self.beta_2 = _decay_rate("beta_2", beta_2)
        self._set_epsilon(epsilon)

    _refused = {
        "amsgrad": "the largest of the second moments depends on how often "
        "there are steps"
    }

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._momentums, self._velocities = self.add_optimizer_variables(
            variables, ["momentum", "velocity"]
        )

    def _step(self, mixed, variable, learning_rate):
        mixed = dense(mixed, variable)
        old = self._momentums[self._get_variable_index(variable)]
        mean = self._followed(old, mixed, self.beta_1)
        moment, update = self._second_moment(mixed, variable, self.beta_2)
        # The mean has seen this step's gradient, the second moment has not:
        # but in the first step, where it is this gradient's own.
        done = self._steps()
        correction = ops.sqrt(
            self._part_seen(self.beta_2, ops.maximum(done, 1))
        ) / self._part_seen(self.beta_1, done + 1)
        step_size = (
            learning_rate
            * ops.cast(correction, variable.dtype)
            / math.sqrt(self.ell)
        )
        root = ops.add(ops.sqrt(moment), self.epsilon * math.sqrt(self.ell))
        step = ops.divide(ops.multiply(mean, step_size), root)
        return step, [(old, mean), update]

    def _part_seen(self, decay_rate, steps):
        """`1 - decay_rate**steps` of the scaled rate: Keras's correction.

        By logarithms: float32 holds no scaled rate of a large `ell`.
        """
        rate = (1 - decay_rate) / self.ell
        log_rate = math.log1p(-rate) if rate < 1 else -math.inf
        return -ops.expm1(ops.cast(steps, "float64") * log_rate)

    def get_config(self):
        config = super().get_config()
        config.update(
            {
                "beta_1": self.beta_1,
                "beta_2": self.beta_2,
                "epsilon": self.epsilon,
            }
        )
        return config


def _decay_rate(name, value):
    return float(arguments.number(name, value, least=0, below=1))
