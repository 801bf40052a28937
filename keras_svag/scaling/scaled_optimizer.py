"""An optimizer at another batch size, by the scaling rule for it."""

import math
from typing import Any, Literal

import keras
from keras import ops

from keras_svag import arguments
from keras_svag.scaling.conditions import conditions_of
from keras_svag.scaling.optimizers import rule_refusal, without_loss_scale
from keras_svag.scaling.rules import linear_scaling_rule


def scale_optimizer(
    optimizer: keras.optimizers.Optimizer,
    kappa: float,
    rule: Literal["auto", "linear", "square_root"] = "auto",
) -> keras.optimizers.Optimizer:
    """A new optimizer for batches κ times as large, by a scaling rule.

    ```python
    adam = keras.optimizers.Adam(1e-3)  # at batch size 64
    model.compile(keras_svag.scaling.scale_optimizer(adam, 4), loss)  # at 256
    ```

    The linear rule changes the learning rate alone, momentum stays; the
    square-root rule also β, ε and decoupled weight decay. A schedule is kept,
    with its rates scaled and its steps shortened by κ, as are the steps of a
    warm-up. Train for as many epochs as before.

    Args:
        optimizer: A Keras optimizer, or SVAG or its kin, built or not. A loss
            scale around it is left out: Keras adds one where a dtype policy
            asks for it. Keras's optimizers do not hand on what
            `exclude_from_weight_decay` was told: exclude it again.
        kappa: κ, above 0.
        rule: `"linear"`, `"square_root"`, or `"auto"`: that of the optimizer.

    Returns:
        An optimizer of the same class, not built.

    Raises:
        TypeError: If `optimizer` is no optimizer, or `kappa` is no number.
        ValueError: If the rule is not for the optimizer or has no such
            hyperparameters, or the learning rate is a function.
    """
    arguments.instance(
        "optimizer", optimizer, keras.optimizers.Optimizer, "a Keras optimizer"
    )
    arguments.number("kappa", kappa, above=0)
    optimizer = without_loss_scale(optimizer)
    config = optimizer.get_config()
    config |= _changes(optimizer, config, kappa, rule, start=0)
    return type(optimizer).from_config(config)


def rescale(
    optimizer: keras.optimizers.Optimizer,
    kappa: float,
    rule: Literal["auto", "linear", "square_root"] = "auto",
) -> None:
    """Gives an optimizer that trains the hyperparameters of larger batches.

    They are those of `scale_optimizer`, in place: a schedule goes on from the
    rate that it has now. A momentum's velocity holds learning rates, and is
    scaled with them; other state stays. A training step that is traced already
    has to be made anew. What `scale_optimizer` refuses is refused, and nothing
    is changed then.
    """
    optimizer = without_loss_scale(optimizer)
    steps = getattr(optimizer, "effective_iterations", optimizer.iterations)
    start = float(ops.convert_to_numpy(steps))
    config = optimizer.get_config()
    changes = _changes(optimizer, config, kappa, rule, start)
    for name, value in changes.items():
        setattr(optimizer, name, value)
    if isinstance(optimizer, keras.optimizers.SGD):
        for velocity in getattr(optimizer, "momentums", []):
            velocity.assign(velocity * kappa)


def _changes(optimizer, config, kappa, rule, start):
    """`{argument: value}` of what a rule changes of an optimizer."""
    conditions = conditions_of(optimizer, rule)
    refused = rule_refusal(conditions.optimizer, conditions.rule)
    if refused is not None:
        raise arguments.wrong(
            "optimizer",
            "one that the rule is for",
            conditions.optimizer.name,
            str(refused).rstrip("."),
        )
    schedule, rate = None, config["learning_rate"]
    if isinstance(rate, dict):
        # Of these Keras would not make a function again.
        if rate.get("class_name") in ("function", "__lambda__"):
            raise arguments.wrong(
                "optimizer",
                "one whose learning rate is a number or a schedule",
                "a function",
                "scale what it returns",
            )
        schedule, rate = keras.saving.deserialize_keras_object(rate), 0.0
    if conditions.adaptive is None:
        factor = kappa
        scaled = linear_scaling_rule(rate, kappa, conditions.weight_decay)
    else:
        if conditions.momentum:
            raise arguments.wrong(
                "optimizer",
                "one without momentum",
                f"momentum={conditions.momentum:g}",
                "the square-root rule has no factor for it",
            )
        factor = math.sqrt(kappa)
        scaled = conditions.by_square_root(kappa, rate)
    if schedule is not None:
        scaled["learning_rate"] = ScaledSchedule(schedule, factor, kappa, start)
    if warmup := config.get("warmup_steps"):
        # What is over already stays over.
        rest = max(warmup - start, 0)
        scaled["warmup_steps"] = max(round(warmup - rest + rest / kappa), 1)
    return {k: v for k, v in scaled.items() if config.get(k) is not None}


@keras.saving.register_keras_serializable(package="keras_svag")
class ScaledSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule for larger batches: its rates times a factor, fewer steps.

    Step k has `factor` times the rate that the schedule has after as many
    examples: at step κ k or, of batches that have grown at the step `start`, at
    `start` + κ (k - `start`).

    Args:
        schedule: A `keras.optimizers.schedules.LearningRateSchedule`.
        factor: Of the rates.
        kappa: κ, by which the steps are shortened.
        start: The step from which on they are.
    """

    def __init__(
        self,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        factor: float,
        kappa: float,
        start: float = 0,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.factor = factor
        self.kappa = kappa
        self.start = start

    def __call__(self, step: Any) -> Any:
        before = (1 - self.kappa) * self.start
        rate = self.schedule(ops.add(ops.multiply(step, self.kappa), before))
        return ops.multiply(rate, self.factor)

    def get_config(self) -> dict[str, Any]:
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "factor": self.factor,
            "kappa": self.kappa,
            "start": self.start,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ScaledSchedule":
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**config | {"schedule": schedule})
