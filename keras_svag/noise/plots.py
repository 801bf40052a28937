"""Pictures of the gradient noise: along a run, and by layer."""

import numpy as np

# Of the whole run: more of them would each rest on too few observations.
_POINTS = 24
# Times the largest estimate: what reaches farther is cut off.
_TALLEST = 3.0

_PANELS = {
    "grad_sq_norm": "squared gradient norm G\n(squared gradient units)",
    "noise_trace": "noise N at batch size {}\n(squared gradient units)",
    "noise_to_signal": "noise-to-signal ratio N/G\n(dimensionless)",
}


def draw_series(series, axes, batch_size, preconditioned, level, window):
    """G, N and N / G with their bands, an axes each."""
    for stretch in series.stretches():
        count = max(round(_POINTS * len(stretch) / len(series)), 1)
        rows = np.array_split(np.arange(len(stretch)), min(count, len(stretch)))
        parts = [stretch[part[0] : part[-1] + 1] for part in rows]
        steps = [part["step"].mean() for part in parts]
        bands = [
            part.estimate(batch_size, preconditioned, per_layer=False).bands(
                level
            )
            for part in parts
        ]
        for ax, name in zip(axes, _PANELS, strict=True):
            _draw_band(ax, steps, [band[name] for band in bands])
            if stretch["step"][0] > series["step"][0]:
                ax.axvline(stretch["step"][0], linestyle=":", color="gray")
    for ax, label in zip(axes, _PANELS.values(), strict=True):
        if window is not None and len(window):
            ends = window["step"][[0, -1]]
            ax.axvspan(*ends, color="gray", alpha=0.2, linewidth=0)
        values = np.concatenate([line.get_ydata() for line in ax.lines[:]])
        ax.set_ylabel(label.format(f"{batch_size:,}"))
        _cut_off(ax, values)
    label = "training step"
    if len(series.stretches()) > 1:
        label += "; dotted: the learning rate changes"
    if window is not None:
        label += "; gray: the window"
    axes[-1].set_xlabel(label)


def _draw_band(ax, steps, ends):
    lows, values, highs = np.array(ends, float).T
    # An open end reaches beyond the axes, see `_cut_off`.
    far = 1e3 * values[np.isfinite(values)].max(initial=0.0)
    highs = np.where(np.isinf(highs), far, highs)
    ax.fill_between(steps, lows, highs, color="C0", alpha=0.25, linewidth=0)
    ax.plot(steps, values, color="C0", marker=".")


def _cut_off(ax, values):
    values = values[np.isfinite(values)]
    largest = max(values, default=0.0)
    if largest > 0:
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, -largest), min(high, _TALLEST * largest))


def draw_layers(estimates, ax, level):
    """A forest plot of N / G, a row an estimate, the first one on top."""
    bands = [estimate.bands(level) for estimate in estimates.values()]
    values = np.array([band["noise_to_signal"] for band in bands])
    seen = values[np.isfinite(values) & (values > 0)]
    left, right = (seen.min() / 2, seen.max() * 2) if len(seen) else (0.1, 10.0)
    lows, points, highs = values.T
    places = np.arange(len(values))
    ax.set_xscale("log")
    ax.set_xlim(left, right)
    ends = np.maximum(lows, left), np.minimum(highs, right)
    ax.hlines(places, *ends, color="C0")
    ax.plot(points, places, "o")
    outside = (lows < left, left, "<"), (highs > right, right, ">")
    for is_outside, edge, marker in outside:
        edges = np.full(is_outside.sum(), edge)
        ax.plot(edges, places[is_outside], f"C0{marker}", clip_on=False)
    ax.set_yticks(places, list(estimates))
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.set_xlabel(
        f"noise-to-signal ratio N/G (dimensionless) with its {level:.0%} "
        "interval"
    )
