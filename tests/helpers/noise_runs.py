"""Series of observations along runs of SGD, with means of a test's choice."""

import math

import numpy as np

from keras_svag import BranchTest
from keras_svag.noise.series import NoiseSeries
from keras_svag.reporting.report import scaling_report
from keras_svag.scaling.conditions import RunConditions

BATCH_SIZE = 128
RATE = 0.8
DECAY = 5e-4
SGD = RunConditions(weight_decay=DECAY, scale_invariant=True)


def report(series, conditions=SGD, **settings):
    """The `ScalingReport` on a series, at `BATCH_SIZE`."""
    return scaling_report(series, conditions, batch_size=BATCH_SIZE, **settings)


def equilibrium_sq_norm(g, n, rate=RATE):
    """R at which (2 - ηλ) λ R = η (G + N)."""
    return rate * (g + n) / ((2 - rate * DECAY) * DECAY)


def run(*epochs, every=4, **fields):
    """A `NoiseSeries` of epochs, each the arguments of `add_epoch`."""
    series = NoiseSeries(**{"sampling": "independent"} | fields)
    for number, epoch in enumerate(epochs, 1):
        add_epoch(series, number, every=every, **epoch)
    return series


def add_epoch(
    series,
    epoch,
    g=1.0,
    n=41.0,
    rate=RATE,
    last_rate=None,
    count=40,
    g_spread=0.5,
    n_spread=0.1,
    weight_sq_norm=None,
    every=4,
    preconditioned=None,
    rows=BATCH_SIZE,
):
    """Adds observations whose means are exactly G and N.

    Args:
        g, n: G, and N at `BATCH_SIZE`.
        rate, last_rate: η of the first and of the last observation.
        g_spread, n_spread: Their standard deviations, relative to the means.
        weight_sq_norm: R; that of equilibrium if None.
        every: Training steps from one observation to the next.
        preconditioned: (G, N) in the norm of an optimizer, or None.
    """
    random = np.random.default_rng(len(series))
    noise = random.normal(size=(count, 2))
    noise -= noise.mean(axis=0)
    factors = 1 + noise * [g_spread, n_spread]
    rates = np.linspace(rate, last_rate or rate, count)
    if weight_sq_norm is None:
        weight_sq_norm = equilibrium_sq_norm(g, n)
    norms = {"": (g, n)}
    if preconditioned is not None:
        norms["preconditioned_"] = preconditioned
    step = series["step"][-1] if len(series) else 0
    for rate, (g_factor, n_factor) in zip(rates, factors, strict=True):
        step += every
        moments = {}
        for prefix, (g, n) in norms.items():
            moments[f"{prefix}grad_sq_norm"] = g * g_factor
            moments[f"{prefix}example_noise"] = n * n_factor * BATCH_SIZE
        series.append(
            step=step,
            epoch=epoch,
            iteration=step - 1,
            learning_rate=rate,
            rows=rows,
            weight_sq_norm=weight_sq_norm,
            **moments,
        )


def branch(kappa, difference=0.01, signal=math.nan):
    """A `BranchTest` at `BATCH_SIZE`.

    Args:
        kappa: κ.
        difference: That of the losses, known to 0.02; NaN for a loss at κB
            that is not finite.
        signal: The ratio of G, of whose interval nothing is known if it is
            NaN.
    """
    ends, of_signal = (math.inf, math.inf), (math.nan, 0.0, math.inf)
    if math.isfinite(difference):
        ends = (difference - 0.02, difference + 0.02)
    if math.isfinite(signal):
        of_signal = (signal,) * 3
    return BranchTest(
        kappa=kappa,
        batch_size=BATCH_SIZE,
        examples=20_000,
        seeds=3,
        rule="linear",
        hyperparameters={"learning_rate": kappa * RATE},
        loss_before=0.5,
        loss=0.4,
        difference=(difference, *ends),
        ratios={"weight_sq_norm": (1.1, 1.0, 1.2), "grad_sq_norm": of_signal},
        tolerance=0.01,
        level=0.95,
    )
