"""Does SGD follow noisy gradient descent? Runs of both."""

import math

import numpy as np

from experiments.report import seeds, study
from keras_svag.noise.ratio import satterthwaite, student_t_quantile

NGD, SGD = "NGD", "SGD"


class NGDStudy(study.Study):
    """NGD beside SGD: `difference` of their accuracies, and `closeness`."""

    name = "ngd"
    differ_in = "being NGD or SGD"
    # Beside the optimizer the keys that only some optimizers have.
    free = {"optimizer", "ell", "pairing", "sampling", "measure_noise"}
    title = "NGD and SGD"
    label = "{}"

    @staticmethod
    def value_of(run):
        name = run.config["optimizer"]
        if name in ("sgd", "svag") and run.config["ell"] == 1:
            return SGD
        return NGD if name == "ngd" else None

    def measure(self):
        sgd, ngd = self.means[SGD], self.means[NGD]
        self.difference = welch_difference(ngd["accuracy"], sgd["accuracy"])
        self.closeness = seeds.closeness_over_seeds(sgd, ngd)

    @property
    def headline(self):
        value, low, high = (100 * end for end in self.difference)
        told = "one seed gives no interval: undetermined"
        if math.isfinite(low):
            told = f"95% interval [{low:+.2f}, {high:+.2f}]: "
            told += "not " * (low <= 0 <= high) + "told apart"
        return (
            f"{NGD}'s test accuracy less {SGD}'s: {value:+.2f} percentage "
            f"points ({told})."
        )

    def parts(self):
        rows = [{"": n, **study.outcome(m)} for n, m in self.means.items()]
        yield study.table("At the end", rows)
        yield f"{self.seeds_text} The interval is Welch's."
        if self.closeness:
            found = self.closeness_text(self.closeness)
            yield f"SGD is C-close to NGD for {found}."
            yield from self.closeness_details(self.closeness, NGD, SGD)
        else:
            yield "NGD's G and N are not measured: there is no C-closeness."
        expected = "optimizer", "seed"
        also = [key for key in self.differing if key not in expected]
        if also:
            yield f"Besides the optimizer the runs differ in {', '.join(also)}."

    def plots(self):
        return self.curves(" of NGD and SGD")


def welch_difference(first, second, level=0.95):
    """`(difference, low, high)` of two `SeedMean`s of unequal variance.

    Welch's interval; the degrees of freedom are rounded down. Infinite if
    either has no error, because there was one seed.
    """
    value, reach = first.value - second.value, math.inf
    if min(first.count, second.count) > 1:
        errors = np.array([first.standard_error, second.standard_error])
        dof = satterthwaite(errors**2, [first.count - 1, second.count - 1])
        reach = student_t_quantile(level, int(dof)) * math.hypot(*errors)
    return value, value - reach, value + reach
