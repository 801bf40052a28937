"""How many examples, batches and steps simulate SGD."""

import dataclasses

from keras_svag import arguments
from keras_svag.optimizers.svag import svag_weights


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """How many examples, batches and steps simulate SGD at one batch size.

    Args:
        num_examples: size n of the training set.
        batch_size: B, that of the simulated SGD.
        ell: SVAG's amplification; 1 for any other optimizer.
        pairing: that of SVAG or its kin; None for any other optimizer, which
            takes a batch of B a step, of two halves that are drawn apart.
        pairs_within_step: whether a training step of SVAG takes a whole pair,
            as in an `SVAGModel`, or one of its batches, as a plain model does.
    """

    num_examples: int
    batch_size: int
    ell: int = 1
    pairing: str | None = "independent"
    pairs_within_step: bool = True

    def __post_init__(self):
        arguments.integer(
            "batch_size",
            self.batch_size,
            most=self.num_examples,
            remedy="the training set has no more examples",
        )
        # Refuses what it knows no weights of.
        svag_weights(self.ell, self.pairing or "independent")
        if self.pairing != "independent" and self.batch_size % 2:
            wanted = "even to be split into halves"
            raise arguments.wrong("batch_size", wanted, self.batch_size)

    @property
    def sub_batch_size(self):
        """Rows of one of a pair's sub-batches."""
        independent = self.pairing == "independent"
        return self.batch_size if independent else self.batch_size // 2

    @property
    def sub_batches_per_step(self):
        """Sub-batches of one training step."""
        if self.pairing is None or self.pairs_within_step:
            return 2
        return 1

    @property
    def rows_per_step(self):
        """Rows of one training step."""
        return self.sub_batch_size * self.sub_batches_per_step

    @property
    def sgd_steps_per_epoch(self):
        """Steps of SGD in an epoch; partial batches are dropped."""
        return self.num_examples // self.batch_size

    @property
    def steps_per_epoch(self):
        """Training steps that take as long as SGD's epoch."""
        return self.sgd_steps_per_epoch * self.steps_per_sgd_step

    @property
    def steps_per_sgd_step(self):
        """Training steps that take as long as one step of SGD."""
        return self.ell * (2 // self.sub_batches_per_step)

    @property
    def sub_batches_per_shuffled_epoch(self):
        """Sub-batches, in pairs, that one permutation of the data set holds."""
        return self.num_examples // self.sub_batch_size // 2 * 2

    def running_average_momentum(self, momentum):
        """BatchNormalization's momentum that keeps SGD's averaging window.

        Derived: u updates per SGD step at `momentum ** (1 / u)` forget as much
        as one at `momentum`.
        """
        return momentum ** (1 / (self.ell * self._updates_per_pair))

    @property
    def _updates_per_pair(self):
        if self.pairing is None:
            return 1
        # Measured at most, the second pass of an SVAGModel leaves no trace.
        trains_on_first = self.ell == 1 and self.pairing == "independent"
        return 1 if trains_on_first and self.pairs_within_step else 2
