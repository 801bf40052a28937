"""Judges the linear scaling rule from a measured noise-to-signal ratio."""

import math

from keras_svag.arguments import checked_kappas, checked_nonnegative, is_number
from keras_svag.scaling import max_batch_multiplier, min_noise_to_signal
from keras_svag.verdict import BALANCE_TOLERANCE, LinearScalingVerdict, Verdict

_SGD = ("sgd", "svag")
_ADAPTIVE = (
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "ftrl",
    "lamb",
    "lion",
    "muon",
    "nadam",
    "rmsprop",
)


def linear_scaling_refusal(optimizer):
    """Why there is no verdict for an optimizer, by name; None for others.

    Args:
        optimizer: Name of its class, such as `"Adam"`.
    """
    if str(optimizer).lower() not in _ADAPTIVE:
        return None
    return (
        f"The linear scaling rule is a rule for SGD, not for {optimizer}: for "
        "adaptive optimizers use the square-root scaling rule "
        "(keras_svag.scaling.square_root_scaling_rule), which is derived for "
        "Adam and RMSprop."
    )


def linear_scaling_verdict(
    estimate,
    learning_rate,
    weight_decay=0.0,
    *,
    batch_size=None,
    closeness=2**0.5,
    kappas=(2, 4, 8, 16),
    level=0.95,
    balance=None,
    scale_invariant=None,
    momentum=0.0,
    ell=1,
    optimizer="SGD",
    batch_norm_halves=False,
):
    """Judges the linear scaling rule from a measured N / G.

    A κ above κ_max at the high end of the interval is ruled out, one at or
    below κ_max at the low end is not ruled out, between them it is
    undetermined.

    Args:
        estimate: `NoiseEstimate` of the baseline.
        learning_rate, weight_decay: η and λ of the baseline.
        batch_size: B of the baseline; that of `estimate` if None.
        closeness: C, above 1.
        kappas: Factors on the batch size to judge, each at least 1.
        level: Level of the two-sided interval for N / G.
        balance: From `keras_svag.scaling.balance`, or None if not defined.
        scale_invariant: Whether the loss is, None if not known.
        momentum: The optimizer's.
        ell: Amplification of the run that was measured.
        optimizer: Name of the optimizer's class; adaptive ones are refused a
            verdict, in `refusal`.
        batch_norm_halves: Whether halves of a batch were normalized apart.

    Returns:
        A `LinearScalingVerdict`.

    Raises:
        ValueError: If an argument is out of range, no batch size is known, or
            `batch_size` is not that of `estimate`.
    """
    batch_size = _checked_batch_size(batch_size, estimate.batch_size)
    kappas = checked_kappas(kappas)
    checked_nonnegative("learning_rate", learning_rate)
    threshold = min_noise_to_signal(closeness, learning_rate, weight_decay)
    low, high = estimate.interval(level)
    # Above 0 N / G has a point estimate; a negative one is not clamped.
    point = estimate.noise_to_signal if estimate.grad_sq_norm > 0 else None

    def multiplier(noise_to_signal):
        return max_batch_multiplier(
            noise_to_signal, closeness, learning_rate, weight_decay
        )

    smallest, largest = multiplier(low), multiplier(high)
    refusal = linear_scaling_refusal(optimizer)
    if refusal is None and not (estimate.grad_sq_norm or estimate.noise_trace):
        refusal = "Gradients that are exactly zero have no noise to measure."

    def judge(surely_holds, surely_fails):
        if refusal or not (surely_holds or surely_fails):
            return Verdict.UNDETERMINED
        return Verdict.RULED_OUT if surely_fails else Verdict.NOT_RULED_OUT

    skipped = (
        f"{estimate.num_skipped:,} observations were not finite and left out"
        if estimate.num_skipped
        else None
    )
    return LinearScalingVerdict(
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        closeness=closeness,
        level=level,
        noise_to_signal=point,
        interval=(low, high),
        noise_to_signal_text=estimate.describe(level),
        max_multiplier_low=smallest,
        max_multiplier=None if point is None else multiplier(point),
        max_multiplier_high=largest,
        multiplier_verdicts={
            kappa: judge(kappa <= smallest, kappa > largest) for kappa in kappas
        },
        sde_verdict=judge(low >= threshold, high < threshold),
        min_noise_to_signal=threshold,
        balance=balance,
        heuristic_reasons=tuple(
            _heuristic_reasons(
                estimate,
                weight_decay,
                balance,
                scale_invariant,
                momentum,
                ell,
                optimizer,
                batch_norm_halves,
            )
        ),
        notes=tuple(filter(None, (skipped, estimate.noise_scale_warning))),
        refusal=refusal,
    )


def _checked_batch_size(batch_size, measured):
    if batch_size is None:
        batch_size = measured
    if not (is_number(batch_size) and 1 <= batch_size < math.inf):
        raise ValueError(
            f"`batch_size` must be at least 1, got {batch_size!r}: give the "
            "batch size of the baseline run."
        )
    if measured is not None and measured != batch_size:
        raise ValueError(
            f"`batch_size` must be that of the estimate, {measured}, got "
            f"{batch_size}: N is stated at one batch size."
        )
    return batch_size


def _heuristic_reasons(
    estimate,
    weight_decay,
    balance,
    scale_invariant,
    momentum,
    ell,
    optimizer,
    batch_norm_halves,
):
    if estimate.grad_sq_norm_sign() == "negative":
        yield "G is significantly below 0"
    if str(optimizer).lower() not in _SGD:
        yield f"the theory is about SGD, not {optimizer}"
    if scale_invariant is None:
        yield "the loss is not known to be scale-invariant"
    elif not scale_invariant:
        yield "the loss is not scale-invariant"
    if not weight_decay:
        yield "there is no weight decay, hence no equilibrium"
    elif balance is None or not math.isfinite(balance):
        yield "the run is not known to be at equilibrium"
    elif abs(balance - 1) > BALANCE_TOLERANCE:
        yield f"the run is not at equilibrium (balance {balance:.2f})"
    if momentum:
        yield f"momentum is {momentum:g}, not 0"
    if ell != 1:
        yield f"N/G is that of SVAG with ell {ell}, which stands in for the SDE"
    if estimate.sampling is None:
        yield "how the batches were drawn is not known"
    elif estimate.sampling == "shuffle":
        if not estimate.corrected_for_sampling:
            yield "the data are shuffled and their number is not known"
        elif estimate.noise_scale_warning:
            yield "the noise scale is not small against the shuffled data"
    elif (
        estimate.sampling == "without_replacement"
        and not estimate.corrected_for_sampling
    ):
        yield "drawing without replacement is not corrected for"
    if batch_norm_halves:
        yield "batch normalization saw halves of a batch apart"
