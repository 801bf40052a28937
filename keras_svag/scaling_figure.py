"""The figure of a study of the linear scaling rule."""

import math

import numpy as np
from matplotlib.ticker import NullLocator

from keras_svag.figures import (
    ACCURACY,
    COLOURS,
    error_bar,
    look,
    make_logarithmic,
    saved_figure,
)
from keras_svag.scaling_study import BREAKING_FACTOR, share_of_noise


def save_scaling(path, study):
    """G and N, N/G, and test accuracy against the batch size.

    Args:
        path: PNG file.
        study: `ScalingStudy`.
    """
    with saved_figure(path, 10) as figure:
        panels = figure.subplots(3, 1, sharex=True)
        _draw_moments(panels[0], study)
        _draw_ratio(panels[1], study)
        _draw_accuracy(panels[2], study)
        sizes = [batch.batch_size for batch in study.batches]
        panels[2].set_xlabel(
            "batch size B (examples), learning rate in proportion"
        )
        panels[2].set_xticks(sizes, [f"{size:,}" for size in sizes])
        panels[2].xaxis.set_minor_locator(NullLocator())
        for axes in panels:
            # Error bars without an upper end would stretch the axis.
            axes.set_xlim(sizes[0] / 1.4, sizes[-1] * 1.4)


def _draw_moments(axes, study):
    measured = [batch for batch in study.batches if batch.estimate]
    sizes = [batch.batch_size for batch in measured]
    for index, (name, label) in enumerate(
        (("grad_sq_norm", "G = |∇L|²"), ("noise_trace", "N = Tr Σ at B")), 1
    ):
        values = [getattr(batch.estimate, name) for batch in measured]
        errors = [getattr(batch.estimate, f"{name}_se") for batch in measured]
        axes.errorbar(
            sizes,
            [value if value > 0 else math.nan for value in values],
            [error_bar(error) for error in errors],
            **look(index),
            capsize=4,
            label=f"{label} (± standard error)",
        )
    axes.set_xscale("log")
    make_logarithmic(axes)
    axes.set_ylabel("squared gradient units")
    axes.legend()


def _draw_ratio(axes, study):
    axes.set_xscale("log")
    shown = [
        (batch.batch_size, low if math.isnan(point) else point, low, high)
        for batch in study.batches
        for point, low, high in [share_of_noise(batch)]
        # Of an interval [0, ∞) there is nothing to show.
        if point > 0 or low > 0
    ]
    if shown:
        sizes, values, lows, highs = np.transpose(shown)
        unbounded = np.isinf(highs)
        axes.errorbar(
            sizes,
            values,
            [
                # A lower end of 0 lies below any logarithmic axis.
                np.minimum(values - lows, 0.9 * values),
                np.where(unbounded, values, highs - values),
            ],
            lolims=unbounded,
            **look(2),
            capsize=4,
            label="N/G (95% interval; arrow: no upper end)"
            if unbounded.any()
            else "N/G (95% interval)",
        )
    axes.axhline(
        study.threshold,
        color=COLOURS[4],
        linestyle="--",
        label=f"threshold 1/(C² − 1) = {study.threshold:.3g}",
    )
    make_logarithmic(axes)
    axes.set_ylabel("N/G (dimensionless)")
    axes.legend()


def _draw_accuracy(axes, study):
    trained = [batch for batch in study.batches if not batch.num_diverged]
    axes.set_xscale("log")
    axes.errorbar(
        [batch.batch_size for batch in trained],
        [100 * (1 - batch.test_error.value) for batch in trained],
        [100 * error_bar(batch.test_error.standard_error) for batch in trained],
        **look(3),
        capsize=4,
        label="mean over seeds ± standard error",
    )
    diverged = [b.batch_size for b in study.batches if b.num_diverged]
    if diverged:
        axes.plot(
            diverged,
            [0.03] * len(diverged),
            "X",
            color=COLOURS[0],
            markersize=9,
            transform=axes.get_xaxis_transform(),
            label="diverged, at least one seed",
        )
    axes.axhline(
        100 * (1 - BREAKING_FACTOR * study.best.test_error.value),
        color=COLOURS[0],
        linestyle=":",
        label="test error 20% above the best",
    )
    baseline = study.batches[0]
    if baseline.predicted:
        low, point, high = baseline.predicted
        axes.axvspan(
            low,
            # An open end goes to the edge of the axis.
            min(high, 1e3 * study.batches[-1].batch_size),
            color=COLOURS[5],
            alpha=0.3,
            linewidth=0,
            label=f"predicted B* from B = {baseline.batch_size:,} "
            "(95% interval)",
        )
        if point is not None:
            axes.axvline(point, color=COLOURS[5], linestyle="-.")
    if study.breaks_at:
        axes.axvline(
            study.breaks_at,
            color=COLOURS[4],
            linestyle="--",
            label=f"observed break at B = {study.breaks_at:,}",
        )
    axes.set_ylabel(ACCURACY)
    # Outside, lest it hide a break.
    axes.figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=2
    )
