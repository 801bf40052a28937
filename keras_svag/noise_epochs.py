"""The gradient noise of a run, epoch by epoch."""

import dataclasses
import math

import numpy as np

from keras_svag.noise.estimate import NoiseEstimate, finite_or_none
from keras_svag.noise.pooling import estimate_from_state, estimate_to_state


@dataclasses.dataclass(frozen=True)
class NoiseEpoch:
    """The noise of one epoch, and the learning rate at which it was measured.

    Attributes:
        epoch: Number of the epoch, counted from 1.
        estimate: `NoiseEstimate`, corrected for sampling where it can be.
        step_moments: (G, N) as the steps saw them, not corrected: they are
            what moves the weights. Those of `estimate` for a probe.
        weight_sq_norm: R, squared norm of the decayed weights.
        learning_rate: η of the first step.
        last_learning_rate: η of the last step.
    """

    epoch: int
    estimate: NoiseEstimate
    step_moments: tuple[float, float]
    weight_sq_norm: float
    learning_rate: float
    last_learning_rate: float

    @property
    def has_constant_rate(self):
        """Whether first and last step had the same learning rate."""
        return math.isclose(
            self.learning_rate, self.last_learning_rate, rel_tol=1e-6
        )

    def continues(self, later):
        """Whether both epochs have one and the same learning rate."""
        return (
            self.has_constant_rate
            and later.has_constant_rate
            and math.isclose(
                self.learning_rate, later.learning_rate, rel_tol=1e-6
            )
        )

    def to_state(self):
        """Plain values for strict JSON; `from_state` is the way back."""
        fields = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
        }
        return fields | {
            "estimate": estimate_to_state(self.estimate),
            "step_moments": [finite_or_none(m) for m in self.step_moments],
            "weight_sq_norm": finite_or_none(self.weight_sq_norm),
        }

    @classmethod
    def from_state(cls, state):
        def restored(value):
            return math.nan if value is None else value

        return cls(
            **state
            | {
                "estimate": estimate_from_state(state["estimate"]),
                "step_moments": tuple(map(restored, state["step_moments"])),
                "weight_sq_norm": restored(state["weight_sq_norm"]),
            }
        )


def epochs_from_state(state):
    """Batch size and `NoiseEpoch`s of a saved `LinearScalingRuleCheck`.

    Raises:
        ValueError: If `state` is not what its `state_dict` returns.
    """
    try:
        epochs = [NoiseEpoch.from_state(epoch) for epoch in state["epochs"]]
        return state["batch_size"], epochs
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"`state` must be what `state_dict` returned, got {state!r:.200}."
        ) from error


def constant_rate_stretches(epochs):
    """Splits the epochs where the learning rate changes: lists, in order."""
    stretches = [[epochs[0]]]
    for earlier, later in zip(epochs, epochs[1:], strict=False):
        if earlier.continues(later):
            stretches[-1].append(later)
        else:
            stretches.append([later])
    return stretches


def tail(stretch, window):
    """The last `window` epochs of a stretch, as far as they were measured."""
    return [e for e in stretch if e.epoch > stretch[-1].epoch - window]


def weighted_mean(values, weights):
    """Mean over the epochs; one without observations does not count."""
    values, weights = np.asarray(values, float), np.asarray(weights, float)
    if not weights.any():
        return np.full(values.shape[1:], math.nan)[()]
    measured = weights > 0
    return np.average(values[measured], axis=0, weights=weights[measured])
