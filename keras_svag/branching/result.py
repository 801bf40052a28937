"""What two short trainings from the same weights say of a batch size."""

import dataclasses
import enum
import math

from keras_svag.noise.numerals import number, whole, within
from keras_svag.noise.saving import SavedFields
from keras_svag.scaling.closeness import Closeness
from keras_svag.scaling.rules import Hyperparameters


class BranchVerdict(str, enum.Enum):
    """What the loss of two branches says, given its interval."""

    WITHIN_TOLERANCE = "within tolerance"
    WORSE = "worse"
    NOT_TOLD_APART = "not told apart"

    __str__ = str.__str__


@dataclasses.dataclass(frozen=True, eq=False)
class BranchTest(SavedFields):
    """How a model trains on at κ times the batch size, by short trainings.

    `branch_test` makes it. Unlike a bound it says what was seen: over so many
    examples, from these weights. What happens later it does not say.

    Attributes:
        kappa: κ.
        batch_size: B.
        examples: Examples of each training.
        seeds: Pairs of trainings, each on the data in another order.
        rule: `"linear"` or `"square_root"`.
        hyperparameters: Those at κB, as arguments of the optimizer.
        loss_before: Loss on the held examples before the trainings.
        loss: The same after the trainings at B, mean over the seeds.
        difference: `(value, low, high)`, the loss at κB minus that at B. The
            interval is over seeds and held examples.
        ratios: `{statistic: (ratio, low, high)}` of R, G and S afterwards, at
            κB over at B; intervals over the seeds, as in `c_closeness`. (The
            ratio of S is that of N at one batch size.)
        tolerance: The share of `loss` by which a loss may be higher.
        level: Level of the intervals.
    """

    kappa: float
    batch_size: int
    examples: int
    seeds: int
    rule: str
    hyperparameters: Hyperparameters
    loss_before: float
    loss: float
    difference: tuple[float, float, float]
    ratios: dict[str, tuple[float, float, float]]
    tolerance: float
    level: float

    @property
    def scaled_batch_size(self) -> int:
        """κB in examples."""
        return round(self.kappa * self.batch_size)

    @property
    def allowed_difference(self) -> float:
        """The difference in loss that is within tolerance."""
        return self.tolerance * abs(self.loss)

    @property
    def verdict(self) -> BranchVerdict:
        """By where the interval of the difference lies.

        `"within tolerance"`: all of it below `allowed_difference`; `"worse"`:
        all of it above, or a loss that is not finite at κB alone; `"not told
        apart"`: on both sides.
        """
        _, low, high = self.difference
        if high <= self.allowed_difference:
            return BranchVerdict.WITHIN_TOLERANCE
        if low > self.allowed_difference:
            return BranchVerdict.WORSE
        return BranchVerdict.NOT_TOLD_APART

    @property
    def closeness(self) -> Closeness:
        """The C of the two branches: see `c_closeness`."""
        return Closeness.from_ratios(self.ratios)

    def __str__(self):
        return (
            f"Batch {whole(self.scaled_batch_size)} (×{number(self.kappa)}) is "
            f"{self.verdict} after {whole(self.examples)} examples: loss "
            f"{difference(self)} against {number(self.loss)} at batch "
            f"{whole(self.batch_size)}, tolerance "
            f"{number(self.allowed_difference)} ({self.seeds} seeds)"
        )


def difference(test):
    """The difference in loss with its sign and its interval."""
    value, low, high = test.difference
    if math.isnan(value):
        return "is not finite"
    text = within(low, value, high)
    return text if text[0] in "-−–" else f"+{text}"
