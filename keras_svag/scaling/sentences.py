"""The words of a `ScalingVerdict`, sentences without a full stop."""

import math

import numpy as np

from keras_svag.noise.numerals import exact, number, whole, within
from keras_svag.scaling.reasons import equilibrium_text


def lines(verdict):
    """The answer, and what is behind it."""
    yield headline(verdict)
    yield measured(verdict)
    if not verdict.refusal:
        yield from equilibrium(verdict)
        yield sde(verdict)
        yield from notes(verdict)
        if verdict.heuristic:
            yield f"{BECAUSE} {'; '.join(verdict.heuristic_reasons)}"


BECAUSE = "Only a heuristic, because"


def rule(verdict):
    """The name of the rule."""
    return f"{verdict.rule.replace('_', '-')} rule"


def headline(verdict):
    """How far the rule may go, in one sentence."""
    if verdict.refusal:
        return f"No verdict on the {rule(verdict)}. {verdict.refusal}"
    words = _range(verdict)
    if verdict.heuristic:
        return f"Only a heuristic: {words}"
    return words[0].upper() + words[1:]


def _range(verdict):
    """What is not ruled out, and what is."""
    one, beyond = verdict.batch_size, verdict.ruled_out_beyond
    down_to = math.ceil(verdict.min_multiplier_high * one)
    up_to = np.floor(verdict.not_ruled_out_up_to)
    # Below the end by less than the batch is a whole number.
    end = verdict.rule_defined_below * one
    first = f"from batch {_with_factor(down_to, one)} to " * (down_to > 1)
    words = f"the {rule(verdict)} is "
    if down_to > up_to:
        words += "undetermined or ruled out at every batch"
    elif end <= up_to:
        words += f"not ruled out {first}below batch {exact(end)}, where it ends"
    else:
        words += "not ruled out "
        words += f"{first or 'up to batch '}{_with_factor(up_to, one)}"
    ruled_out = []
    below = math.ceil(verdict.min_multiplier_low * one)
    if below > 1:
        ruled_out.append(f"below {_with_factor(below, one)}")
    if beyond < end:
        ruled_out.append(f"beyond {_with_factor(np.floor(beyond), one)}")
    if ruled_out:
        words += f"; {' and '.join(ruled_out)} it is ruled out"
    if up_to < beyond == end == math.inf:
        words += ", and no larger batch is ruled out"
    elif up_to < end <= beyond:
        words += f"; the rule ends below batch {exact(end)}"
    return words


def ends(verdict):
    """Up to which batch nothing is ruled out, and beyond which all is."""
    sizes = verdict.not_ruled_out_up_to, verdict.ruled_out_beyond
    # A largest batch size is not rounded up.
    up_to, beyond = map(whole, np.floor(sizes))
    return f"up to {up_to}", f"beyond {beyond}"


def _with_factor(size, baseline):
    return f"{whole(size)} (×{number(size / baseline)})"


def measured(verdict):
    """N / G of the measured run, with its interval."""
    norm = ""
    if verdict.is_square_root:
        norm = f", in the norm of {process(verdict)}"
    return (
        f"Batch {whole(verdict.batch_size)}, learning rate "
        f"{exact(verdict.learning_rate)}{norm}: "
        f"{verdict.estimate.describe(verdict.level)}"
    )


def at_rest(verdict):
    """Whether the measured run is at rest; the square-root rule asks not."""
    if verdict.is_square_root:
        return "not asked"
    return {True: "yes", False: "no", None: "not known"}[verdict.at_equilibrium]


def equilibrium(verdict):
    """Whether the measured run is at rest, and what was seen of it."""
    if not verdict.is_square_root:
        words = f"At equilibrium: {at_rest(verdict)}"
        seen = equilibrium_text(verdict.balance, verdict.drift)
        yield f"{words} ({seen})" if seen else words


def sde(verdict):
    """Whether the measured run may be close to its SDE."""
    least = verdict.min_noise_to_signal
    needed = f"needs N/G of at least {number(least)}"
    if math.isinf(least):
        needed = "no N/G is enough at this learning rate and weight decay"
    return (
        f"{process(verdict)} within a factor {number(verdict.closeness)} of "
        f"its SDE: {verdict.sde_verdict} ({needed})"
    )


def process(verdict):
    """What the measured run is one of, such as `SVAG with ell 4`."""
    of_sgd = "SVAG" if verdict.ell > 1 else "SGD"
    name = verdict.optimizer if verdict.is_square_root else of_sgd
    return f"{name} with ell {verdict.ell}" if verdict.ell > 1 else name


def compared(verdict):
    """The two processes that a verdict compares, a phrase."""
    measured_run = f"against this run of {process(verdict)}"
    if not verdict.is_square_root:
        return f"SGD at (κB, κη) {measured_run}"
    simulated = verdict.conditions.optimizer.simulates or verdict.optimizer
    return (
        f"{simulated} at κB by the square-root rule {measured_run}, by a "
        "condition derived here, not in a paper"
    )


def scaled_run(run):
    """The verdict on one batch size, in one sentence."""
    verdict = run.baseline
    size = f"batch {_with_factor(run.batch_size, verdict.batch_size)}"
    if verdict.refusal:
        return f"No verdict on {size}. {verdict.refusal}"
    if run.hyperparameters is None:
        return (
            f"The {rule(verdict)} has no run at {size}, for κ (1 - β) is not "
            "below 1"
        )
    given = ", ".join(
        f"{name}={exact(value)}" for name, value in run.hyperparameters.items()
    )
    words = (
        f"{size} with {given} is {run.verdict}: C is at least "
        f"{closeness(run)}, asked for is {number(verdict.closeness)}"
    )
    if verdict.heuristic:
        return f"Only a heuristic: {words}"
    return words[0].upper() + words[1:]


def closeness(run):
    """The least C with its interval; the low end where there is no point."""
    low, value, high = run.min_closeness
    if math.isinf(low):
        return "∞: the weights diverge"
    return within(low, low if value is None else value, high)


def notes(verdict):
    """Other things to know, a sentence each."""
    estimate = verdict.estimate
    if estimate.num_skipped:
        yield (
            f"{estimate.num_skipped:,} observations were not finite and left "
            "out: the loss, a gradient or a weight was NaN or infinite"
        )
    batches = estimate.num_batches
    if batches is not None and estimate.count >= 2 * batches:
        yield (
            f"The same batches came again: {estimate.count:,} observations are "
            f"of {batches:,} different ones, and error bars count those "
            "alone; shuffle anew in every epoch"
        )
    if estimate.noise_scale_warning:
        yield estimate.noise_scale_warning.rstrip(".")
    product = verdict.conditions.decay_per_step
    if verdict.at_equilibrium is False and product:
        yield (
            "The squared weight norm settles over some multiples of 1/(2ηλ) = "
            f"{1 / (2 * product):,.0f} SGD steps"
        )
