"""The words of a `ScalingVerdict`."""

import math

from keras_svag.scaling.reasons import equilibrium_text


def text(verdict):
    """The headline with the reasons and notes behind it."""
    parts = [headline(verdict)]
    if not verdict.refusal:
        if verdict.heuristic:
            reasons = "; ".join(verdict.heuristic_reasons)
            parts.append(f"Only a heuristic: {reasons}")
        parts += [note.rstrip(".") for note in notes(verdict)]
    return ". ".join(parts)


def headline(verdict):
    """The verdict in one line; batch sizes to two digits."""
    head = (
        f"batch {verdict.batch_size:,}, learning rate "
        f"{verdict.learning_rate:g}: "
        f"{verdict.estimate.describe(verdict.level)}"
    )
    if verdict.refusal:
        return f"{head}; no verdict. {verdict.refusal}"
    if verdict.is_square_root:
        return f"{head}, in the norm of {process(verdict)}; {_range(verdict)}"
    return f"{head}; {_range(verdict)}; {_equilibrium(verdict)}"


def _range(verdict):
    name = "square-root" if verdict.is_square_root else "linear"
    words = (
        f"the {name} scaling rule is not ruled out up to batch "
        f"{_batch(verdict.not_ruled_out_up_to)}, "
    )
    if verdict.ell > 1 and not verdict.is_square_root:
        words = f"{compared(verdict)}: {words}"
    if math.isfinite(verdict.ruled_out_beyond):
        words += f"ruled out beyond {_batch(verdict.ruled_out_beyond)}"
    else:
        words += "and no larger batch is ruled out"
    if verdict.max_batch_size is not None:
        words += f" (point estimate {_batch(verdict.max_batch_size)})"
    end = verdict.rule_defined_below * verdict.batch_size
    if end < verdict.ruled_out_beyond:
        # Below the end by less than the batch is a whole number.
        words += f"; the rule itself ends below batch {end:,.6g}"
    return words


def _batch(size):
    """A batch size to two digits, or as a whole number below 1,000."""
    if size < 1000:
        return f"{math.floor(size)}"
    return f"{float(f'{size:.2g}'):,.0f}"


def _equilibrium(verdict):
    answers = {True: "yes", False: "no", None: "not known"}
    words = f"at equilibrium: {answers[verdict.at_equilibrium]}"
    measured = equilibrium_text(verdict.balance, verdict.drift)
    return f"{words} ({measured})" if measured else words


def process(verdict):
    """What the measured run is one of, such as `SVAG with ell 4`."""
    if verdict.ell > 1:
        name = verdict.optimizer if verdict.is_square_root else "SVAG"
        return f"{name} with ell {verdict.ell}"
    return verdict.optimizer if verdict.is_square_root else "SGD"


def compared(verdict):
    """The two processes that a verdict compares, a phrase."""
    if verdict.is_square_root:
        simulated = verdict.conditions.optimizer.simulates or verdict.optimizer
        return (
            f"{simulated} at κB by the square-root rule against this run "
            f"of {process(verdict)}, by a condition derived here, not in a "
            "paper"
        )
    return f"SGD at (κB, κη) against this run of {process(verdict)}"


def scaled(verdict, kappa):
    """The hyperparameters at κB, as arguments of the optimizer."""
    values = verdict.scaled[kappa]
    if values is None:
        return "no such run, for κ (1 - β) is not below 1"
    if not verdict.is_square_root:
        return f"{values['learning_rate']:g}"
    return ", ".join(f"{name}={value:.6g}" for name, value in values.items())


def notes(verdict):
    """Other things to know, a sentence each."""
    estimate = verdict.estimate
    if estimate.num_skipped:
        yield (
            f"{estimate.num_skipped:,} observations were not finite and left "
            "out"
        )
    if estimate.noise_scale_warning:
        yield estimate.noise_scale_warning
    product = verdict.conditions.decay_per_step
    if verdict.at_equilibrium is False and product:
        yield (
            "The squared weight norm settles over some multiples of 1/(2ηλ) = "
            f"{1 / (2 * product):,.0f} SGD steps"
        )
