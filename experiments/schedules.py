"""Learning-rate schedules that Keras lacks."""

import keras
from keras import ops

from keras_svag import arguments

SCHEDULES = ("constant", "step", "cosine", "triangle")


def schedule_of(config, steps_per_epoch):
    """A configuration's learning rate: a float, or a schedule of SGD's steps.

    Its `schedule` is `"constant"`; `"step"`: times `decay_factor` from each of
    the epochs `milestones` on; `"cosine"`: from `learning_rate` to 0 over all
    epochs; or `"triangle"`: linearly from 0 to `learning_rate` and back in the
    first half of the epochs, to half of it and back in the second ([L21]). In
    the first `warmup_epochs` it is multiplied by `warmup_factor`.

    References:
        [L21] Li, Malladi, Arora, "On the Validity of Modeling SGD with
        Stochastic Differential Equations (SDEs)", NeurIPS 2021.
    """
    name, rate = config.schedule, float(config.learning_rate)
    arguments.choice("schedule", name, SCHEDULES)
    arguments.number("decay_factor", config.decay_factor, above=0)
    arguments.number("warmup_epochs", config.warmup_epochs, most=config.epochs)
    arguments.number("warmup_factor", config.warmup_factor, above=0, most=1)
    steps = steps_per_epoch * config.epochs
    if name == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, decay_steps=steps)
    elif name == "triangle":
        rate = Triangles(rate, steps)
    elif name == "step" and config.milestones:
        ends = [round(epoch * steps_per_epoch) for epoch in config.milestones]
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            # Keras keeps a value up to and including its boundary.
            [end - 1 for end in ends],
            [rate * config.decay_factor**n for n in range(len(ends) + 1)],
        )
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if warmup_steps == 0:
        return rate
    return Warmup(rate, warmup_steps, config.warmup_factor)


@keras.saving.register_keras_serializable(package="keras_svag_experiments")
class Triangles(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises from 0 and falls again, twice ([L21])."""

    def __init__(self, learning_rate, steps):
        super().__init__()
        self.learning_rate, self.steps = learning_rate, steps

    def __call__(self, step):
        place = 4 * ops.cast(step, "float32") / self.steps
        first = ops.relu(1 - ops.abs(place - 1))
        second = ops.relu(1 - ops.abs(place - 3))
        return self.learning_rate * (first + second / 2)

    def get_config(self):
        return {"learning_rate": self.learning_rate, "steps": self.steps}


@keras.saving.register_keras_serializable(package="keras_svag_experiments")
class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate, a float or a schedule, times `factor` in first steps."""

    def __init__(self, learning_rate, steps, factor):
        super().__init__()
        self.learning_rate = learning_rate
        self.steps, self.factor = steps, factor

    def __call__(self, step):
        rate = self.learning_rate
        rate = ops.cast(rate(step) if callable(rate) else rate, "float32")
        is_warm = ops.greater_equal(step, self.steps)
        return ops.where(is_warm, rate, rate * self.factor)

    def get_config(self):
        return {
            "learning_rate": keras.saving.serialize_keras_object(
                self.learning_rate
            ),
            "steps": self.steps,
            "factor": self.factor,
        }

    @classmethod
    def from_config(cls, config):
        rate = keras.saving.deserialize_keras_object(config["learning_rate"])
        return cls(**{**config, "learning_rate": rate})
