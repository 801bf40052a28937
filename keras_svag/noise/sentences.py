"""The words of a `NoiseEstimate`."""

import math

from keras_svag.noise.numerals import number, percent, whole, with_error, within

# Below 0.06 n both readings of shuffled data, as they are and corrected, cover
# in every run of benchmarks/shuffled.py; above, in some runs one of them fails.
_SMALL_NOISE_SCALE = 0.05

_NOT_MEASURED = "not measured"


def describe(estimate, level):
    """N / G with its interval, S / G without a batch size."""
    ratio = "N/G"
    if estimate.batch_size is None:
        estimate, ratio = estimate.at(1), "S/G"
    if estimate.count == 0:
        text = f"{ratio} is not measured: there were no observations"
        if estimate.num_skipped:
            text += f" ({estimate.num_skipped:,} were not finite and left out)"
        return text
    if estimate.grad_sq_norm == 0 and estimate.example_noise == 0:
        return f"{ratio} is undefined: every gradient was exactly zero"
    if math.isnan(estimate.noise_to_signal):
        if estimate.count == 1:
            return f"{ratio} is not measured: one batch alone has no noise"
        return (
            f"{ratio} is not measured: the gradients are too large to be summed"
        )
    low, high = estimate.interval(level)
    sign = estimate.grad_sq_norm_sign(level)
    if sign == "not told apart from 0":
        return (
            f"{ratio} is at least {number(low)} with no upper bound: G is not "
            "told apart from 0"
        )
    if sign == "negative":
        return (
            f"{ratio} is not measured: G is significantly below 0, so the "
            "batches were not drawn independently"
        )
    point = estimate.noise_to_signal
    if sign == "unknown":
        return (
            f"{ratio} = {number(point)}, from too few observations for an "
            "interval"
        )
    return f"{ratio} = {within(low, point, high)}"


def noise_scale_warning(estimate):
    """A sentence where shuffling biases the reading, else None."""
    n, scale = estimate.num_examples, estimate.noise_scale
    if estimate.sampling == "independent" or n is None or math.isnan(scale):
        return None
    if 0 <= scale <= _SMALL_NOISE_SCALE * n:
        return None
    size = "cannot be told, because G is not measured above 0, for a set"
    if 0 < scale < math.inf:
        share = f"{number(scale / n)} of the data set"
        size = f"is {number(scale)} examples, {share}"
    state = "of N/G is not corrected and can be too high"
    if estimate.corrected_for_sampling:
        state = "is corrected, which is exact only at fixed weights"
    return (
        f"The noise scale {size} of {n:,} examples: gradients of disjoint "
        f"batches are then correlated, and this reading {state}; draw batches "
        "with replacement, or measure with measure_gradient_noise."
    )


def summary(estimate, level):
    """What is known, as rows of `(name, text)`."""
    count = f"{estimate.count:,}"
    if estimate.num_skipped:
        count += f", {estimate.num_skipped:,} not finite and left out"
    scale = f"{number(estimate.noise_scale)} examples"
    if math.isnan(estimate.noise_scale):
        scale = _NOT_MEASURED
    rows = [
        ("Noise-to-signal ratio", describe(estimate, level)),
        ("Gradient noise scale", scale),
        ("Squared gradient norm G", _with_error(estimate, "grad_sq_norm")),
        ("Noise of one example S", _with_error(estimate, "example_noise")),
    ]
    if estimate.batch_size is not None:
        name = f"Noise N at batch size {estimate.batch_size:,}"
        rows.append((name, _with_error(estimate, "noise_trace")))
    rows.append(("Observations", count))
    if estimate.num_batches is not None:
        rows.append(("Different batches", f"{estimate.num_batches:,}"))
    if estimate.effective_sample_size is not None:
        size = whole(estimate.effective_sample_size)
        rows.append(("Effective sample size", size))
    if estimate.largest_share is not None:
        in_g, in_s = map(percent, estimate.largest_share)
        shares = f"{in_g} of G, {in_s} of S"
        rows.append(("In the largest 1% of them", shares))
    if estimate.assumptions:
        rows.append(("Assumptions", ", ".join(estimate.assumptions)))
    if estimate.loss_difference is not None:
        difference = f"{estimate.loss_difference:.2%}"
        rows.append(("Loss of a batch against its halves'", difference))
    if estimate.noise_scale_warning:
        rows.append(("Warning", estimate.noise_scale_warning))
    return rows


def _with_error(estimate, name):
    value, error = getattr(estimate, name), getattr(estimate, f"{name}_se")
    if math.isnan(value):
        return _NOT_MEASURED
    return with_error(value, error)
