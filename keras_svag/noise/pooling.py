"""One noise estimate from those of several windows."""

import dataclasses
import math

import numpy as np

from keras_svag import arguments
from keras_svag.noise.blocks import between_blocks
from keras_svag.noise.estimate import (
    MOMENTS,
    NoiseEstimate,
    PairSums,
    moment_fields,
)

_KEPT = (*MOMENTS, "blocks", "degrees_of_freedom")
# Fewer may by chance be close to each other: what is known within them counts.
_ENOUGH_BLOCKS = 10


def pooled(estimates):
    """The estimate that all observations together give.

    A window counts with its number of observations. The errors are those
    between blocks of time, see `between_blocks`: drift, correlation and bursts
    widen the interval. The blocks are those that the estimates carry; one
    without them is a block, as each of several probes is. A single block keeps
    its own errors.

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
    measured = [estimate for estimate in estimates if estimate.count]
    if not measured:
        moments = {name: math.nan for name in MOMENTS}
    else:
        moments = _pooled_moments(measured)
    known = [e.num_examples_used for e in estimates if e.num_examples_used]
    return dataclasses.replace(
        estimates[-1],
        **{"blocks": (), "degrees_of_freedom": None} | moments,
        count=sum(estimate.count for estimate in estimates),
        num_skipped=sum(estimate.num_skipped for estimate in estimates),
        per_layer=_pooled_layers(estimates),
        corrected_for_sampling=all(
            estimate.corrected_for_sampling for estimate in estimates
        ),
        num_examples_used=sum(known) if known else None,
    )


def _pooled_moments(estimates):
    """Fields of the means and their errors, from estimates with a count."""
    if len(estimates) == 1 and len(estimates[0].blocks) < 2:
        # A pooled estimate keeps what its blocks have said.
        return {name: getattr(estimates[0], name) for name in _KEPT}
    own = np.concatenate([_blocks_of(estimate) for estimate in estimates])
    blocks, covariance, degrees_of_freedom = between_blocks(own)
    counts = np.array([estimate.count for estimate in estimates])
    means = np.array([[e.grad_sq_norm, e.noise_trace] for e in estimates])
    weights = counts / counts.sum()
    inner = sum(
        weight**2 * estimate.covariance_matrix
        for weight, estimate in zip(weights, estimates, strict=True)
    )
    if len(blocks) < 2:
        covariance, degrees_of_freedom, blocks = inner, None, ()
    elif len(blocks) < _ENOUGH_BLOCKS and np.isfinite(inner).all():
        covariance = _at_least(covariance, inner)
    return moment_fields(weights @ means, covariance) | {
        "blocks": tuple(map(tuple, blocks.tolist() if len(blocks) else ())),
        "degrees_of_freedom": degrees_of_freedom,
    }


def _blocks_of(estimate):
    if len(estimate.blocks):
        return np.array(estimate.blocks)
    moments = np.array([1.0, estimate.grad_sq_norm, estimate.noise_trace])
    return estimate.count * moments[None]


def _at_least(covariance, other):
    """The smallest of the matrices `other + P`, P >= 0, that is >= both."""
    values, vectors = np.linalg.eigh(covariance - other)
    return other + vectors * np.maximum(values, 0) @ vectors.T


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
