"""How far does the square-root rule go, for Adam and its kin?"""

import math

import numpy as np

from experiments.optimizers import square_root_scaled
from experiments.report import scaling, study
from experiments.report.linear_scaling import LinearScaling
from keras_svag.noise.numerals import number
from keras_svag.scaling.bounds import max_batch_multiplier


class SquareRootScaling(scaling.ScalingStudy):
    """What runs of several batch sizes say about the square-root rule.

    Beyond the bound some coordinate cannot keep its effective learning rate
    within C: κ > C² + (C² - 1) q_P (derived, section 7 of docs/theory.md).
    """

    name = "square-root"
    differ_in = (
        "batch_size with Adam's or RMSprop's numbers by the square-root rule"
    )
    free = {"batch_size", "learning_rate", "epsilon", "weight_decay"}
    free |= scaling.BETAS.keys()
    kind_beside = LinearScaling
    title = "Square-root scaling"
    rule = "the square-root rule"
    label = "square-root rule"
    symbol = "q_P"
    noise = "preconditioned noise"
    drawn = "q_P, test accuracy and training loss"

    def measure(self):
        self.linear = self.beside.means if self.beside else {}
        super().measure()

    @staticmethod
    def alike(run):
        """What the rule makes of a run at B = 1, to four digits."""
        config = run.config
        try:
            # A number that is left to the optimizer is its default.
            scaled = square_root_scaled(config, 1 / config["batch_size"])
        except (TypeError, ValueError):
            return None
        for beta in scaled.keys() & scaling.BETAS:
            scaled[beta] = 1 - scaled[beta]
        # Of the logarithm: decimal fractions lie on no edge of it.
        return tuple(
            (key, value and round(1e4 * math.log(value)))
            for key, value in scaled.items()
        )

    def noise_of(self, run):
        return run.preconditioned_noise

    def scaled(self, runs):
        return square_root_scaled(runs[0].config, 1)

    def bound_of(self, size):
        # Both runs are SVAG's: the signal's share in v is 1/ell in both.
        q = np.multiply(self.runs[0].ell, self.ratios[size])
        multipliers = max_batch_multiplier(q, self.target)
        return tuple(float(size * m) for m in multipliers)

    def row(self, size):
        beside = {}
        if self.linear:
            beside = dict.fromkeys(("accuracy, linear", "loss, linear"))
        if means := self.linear.get(size):
            cells = study.outcome(means).values()
            beside = dict(zip(beside, cells, strict=True))
        return self.trained(size) | beside | self.judged(size)

    @property
    def headline(self):
        derived = ", by a necessary condition that is derived"
        return f"{self.bound_text}{derived * bool(self.bounds[self.first])}."

    def texts(self):
        text = (
            "Test accuracy and training loss are observations beside it, of "
            "which the condition says nothing"
        )
        if self.linear:
            text += (
                "; “linear” are the runs of the same batch sizes whose "
                "learning rate is in proportion and nothing else scaled, which "
                "is no rule for this optimizer"
            )
        yield f"{text}."
        yield (
            "q_P = N_P/G_P is the noise-to-signal ratio in the optimizer's own "
            "norm, in the last epochs of all seeds together; its 95% interval "
            "is from how N_P and G_P vary within each run. B* = B (C² + (C² − "
            "1) q_P), seen from B. Beyond it some coordinate's effective "
            "learning rate, its drift in an epoch over its mean gradient, has "
            f"changed by more than a factor {number(self.target)}. The "
            "condition is derived for this project and is not in the paper of "
            "the rule (Malladi et al. 2022). It is necessary only, and needs v "
            "to follow (many more steps than 1/(1 − β₂) or 1/(1 − ρ)) and ε to "
            "be small against √v."
        )
        yield (
            f"Where q_P is below 1/(C² − 1) = {number(self.threshold)}, some "
            "coordinate's effective learning rate is not that of the SDE to "
            "this factor."
        )

    def outcomes(self):
        return {"linear rule": self.linear} | super().outcomes()

    @property
    def panels(self):
        return self.draw_ratio, self.draw_accuracy, self.draw_loss
