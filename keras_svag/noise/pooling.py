"""One noise estimate from those of several windows."""

import dataclasses

import numpy as np

from keras_svag import arguments
from keras_svag.noise.estimate import NoiseEstimate, PairSums


def pooled(estimates):
    """The estimate that all observations together give.

    The observations of each are replaced by as many with the same mean and
    the same covariance of the mean, so that a window counts with its number of
    observations, and the drift from window to window widens the interval. For
    estimates from sums over steps this is exact. Degrees of freedom add up.

    Args:
        estimates: `NoiseEstimate`s, at least one, of one batch size. Empty
            ones add what they skipped and nothing else.

    Returns:
        A `NoiseEstimate`, with `per_layer` if all have the same layers.

    Raises:
        ValueError: If their batch sizes differ.
    """
    estimates = list(estimates)
    sizes = {estimate.batch_size for estimate in estimates}
    if len(sizes) > 1:
        raise ValueError(
            arguments.refusal(
                "estimates",
                "of one batch size, at which N is stated",
                sorted(sizes, key=str),
            )
        )
    sums = sum(map(_equivalent_sums, estimates), start=PairSums())
    last = estimates[-1]
    return dataclasses.replace(
        NoiseEstimate.from_sums(
            **sums.to_dict(),
            batch_size=last.batch_size,
            sampling=last.sampling,
            num_examples=last.num_examples,
            per_layer=_pooled_layers(estimates),
        ),
        corrected_for_sampling=all(
            estimate.corrected_for_sampling for estimate in estimates
        ),
        num_examples_used=_sum_of_known(
            estimate.num_examples_used for estimate in estimates
        ),
        degrees_of_freedom=_pooled_degrees_of_freedom(estimates),
    )


def observed_since(estimate, earlier):
    """The estimate that the observations after an earlier one give.

    Args:
        estimate: `NoiseEstimate` from sums over steps.
        earlier: That of the first of these observations, corrected for
            sampling in the same way.

    Returns:
        A `NoiseEstimate`, with `per_layer` if both have it.
    """
    sums = _equivalent_sums(estimate) - _equivalent_sums(earlier)
    layers = None
    if estimate.per_layer and earlier.per_layer:
        layers = {
            name: observed_since(layer, earlier.per_layer[name])
            for name, layer in estimate.per_layer.items()
        }
    return dataclasses.replace(
        NoiseEstimate.from_sums(
            **sums.to_dict(),
            batch_size=estimate.batch_size,
            sampling=estimate.sampling,
            num_examples=estimate.num_examples,
            per_layer=layers,
        ),
        corrected_for_sampling=estimate.corrected_for_sampling,
    )


def _sum_of_known(values):
    values = [value for value in values if value is not None]
    return sum(values) if values else None


def _pooled_degrees_of_freedom(estimates):
    """Those of a pooled variance; None if they follow from the count."""
    if all(estimate.degrees_of_freedom is None for estimate in estimates):
        return None
    return sum(
        estimate.degrees_of_freedom or max(estimate.count - 1, 1)
        for estimate in estimates
        if estimate.count
    )


def _pooled_layers(estimates):
    if any(
        not e.per_layer or e.per_layer.keys() != estimates[0].per_layer.keys()
        for e in estimates
    ):
        return None
    return {
        name: pooled([e.per_layer[name] for e in estimates])
        for name in estimates[0].per_layer
    }


def _equivalent_sums(estimate):
    """Sums of observations with the estimate's mean and covariance."""
    count = estimate.count
    if not count:
        return PairSums(num_skipped=estimate.num_skipped)
    mean = np.array([estimate.grad_sq_norm, estimate.noise_trace])
    covariance = estimate.covariance_matrix
    if np.isnan(covariance).any():
        # An estimate without errors is one observation of unknown precision.
        count, covariance = 1, np.zeros((2, 2))
    seconds = count * ((count - 1) * covariance + np.outer(mean, mean))
    return PairSums(
        count,
        *(float(total) for total in count * mean),
        float(seconds[0, 0]),
        float(seconds[0, 1]),
        float(seconds[1, 1]),
        estimate.num_skipped,
    )
