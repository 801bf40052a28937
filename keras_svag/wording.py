"""A noise estimate in words and in plain numbers, for people and files."""

import dataclasses
import math

# Below 0.06 n both readings of shuffled data, as they are and corrected, cover
# in every run of benchmarks/shuffled.py; above, in some runs one of them fails.
SMALL_NOISE_SCALE = 0.05


def finite_or_none(value):
    """`value`, or None for a float that strict JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def plain_values(estimate):
    """A `NoiseEstimate`, its ratio and its 95% interval for strict JSON."""
    fields = {
        field.name: getattr(estimate, field.name)
        for field in dataclasses.fields(estimate)
        if field.name != "per_layer"
    }
    low, high = estimate.interval()
    fields |= {
        "noise_to_signal": estimate.noise_to_signal,
        "noise_to_signal_se": estimate.noise_to_signal_se,
        "noise_to_signal_low": low,
        "noise_to_signal_high": high,
        "noise_scale": estimate.noise_scale,
        "grad_sq_norm_sign": estimate.grad_sq_norm_sign(),
        "warning": estimate.noise_scale_warning,
    }
    fields = {name: finite_or_none(value) for name, value in fields.items()}
    fields["per_layer"] = estimate.per_layer and {
        name: plain_values(layer) for name, layer in estimate.per_layer.items()
    }
    return fields


def format_ratio(value):
    """A ratio for people: three digits below 10, whole numbers above."""
    return f"{value:.3g}" if abs(value) < 9.995 else f"{value:,.0f}"


def describe_noise_to_signal(estimate, level=0.95):
    """N / G of a `NoiseEstimate` with its interval, or why there is none."""
    if estimate.count == 0:
        text = "N/G is not measured: there were no observations"
        if estimate.num_skipped:
            text += f" ({estimate.num_skipped:,} were not finite and left out)"
        return text
    if estimate.grad_sq_norm == 0 and estimate.noise_trace == 0:
        return "N/G is undefined: every gradient was exactly zero"
    if math.isnan(estimate.noise_to_signal):
        return "N/G is not measured: the gradients are too large to be summed"
    low, high = estimate.interval(level)
    sign = estimate.grad_sq_norm_sign(level)
    if sign == "not told apart from 0":
        return (
            f"N/G is at least {format_ratio(low)} with no upper bound: G is "
            "not told apart from 0"
        )
    if sign == "negative":
        return (
            "N/G is not measured: G is significantly below 0, so the batches "
            "were not drawn independently"
        )
    point = f"N/G = {format_ratio(estimate.noise_to_signal)}"
    if sign == "unknown":
        return f"{point}, from too few observations for an interval"
    return f"{point} [{format_ratio(low)}, {format_ratio(high)}]"


def noise_scale_warning(estimate):
    """A sentence where shuffling biases a `NoiseEstimate`, else None.

    When an epoch is a permutation, G at fixed weights reads low by a fraction
    `noise_scale / (n - 1)` (derived). The correction takes that away, but
    along a run, whose weights follow the epoch, it can overcorrect by about
    as much. Batches drawn independently, or a data set of unknown size, give
    no warning.
    """
    if estimate.sampling in ("with_replacement", "without_replacement"):
        return None
    n, scale = estimate.num_examples, estimate.noise_scale
    if n is None or scale is None or math.isnan(scale):
        return None
    if 0 <= scale <= SMALL_NOISE_SCALE * n:
        return None
    if 0 < scale < math.inf:
        size = f"is {scale:,.0f} examples, {scale / n:.2g} of the data set"
    else:
        size = "cannot be told, because G is not measured above 0, for a set"
    if estimate.corrected_for_sampling:
        state = (
            "this reading is corrected, which is exact only at fixed weights"
        )
    else:
        state = "this reading of N/G is not corrected and can be too high"
    return (
        f"The noise scale {size} of {n:,} examples: gradients of disjoint "
        f"batches are then correlated, and {state}; draw batches with "
        "replacement, or measure with measure_gradient_noise."
    )
