"""The picture of a verdict: how far a run at each batch size is at least."""

import io

import numpy as np

from keras_svag.noise.numerals import number, whole
from keras_svag.reporting import html
from keras_svag.scaling.verdict import Verdict

_GRID = 200
_MARKERS = {
    Verdict.NOT_RULED_OUT: "o",
    Verdict.UNDETERMINED: "d",
    Verdict.RULED_OUT: "x",
}


def draw(report, ax):
    """The least C against κ with its interval, and the C that is asked for.

    And what was predicted, and seen in short trainings.
    """
    verdict, tests = report.verdict, report.branches
    listed = list(verdict.runs.values())
    tried = {test.kappa for test in tests} - {run.kappa for run in listed}
    kappas = [1.0, *(run.kappa for run in listed), *tried]
    grid = np.geomspace(min(kappas) / 1.2, max(kappas) * 1.2, _GRID)
    runs = [verdict.scaled_by(kappa) for kappa in grid]
    lows, values, highs = np.array([run.min_closeness for run in runs], float).T
    values = np.where(np.isnan(values), lows, values)
    ax.set_xscale("log")
    ax.fill_between(
        grid,
        lows,
        np.where(np.isinf(highs), np.nanmax(lows) * 1e3, highs),
        color="C0",
        alpha=0.25,
        linewidth=0,
        label=f"{verdict.level:.0%} interval",
    )
    ax.plot(grid, values, color="C0", label="C at least")
    asked = f"asked for: {number(verdict.closeness)}"
    ax.axhline(verdict.closeness, color="C3", linestyle="--", label=asked)
    for answer, marker in _MARKERS.items():
        places = [
            (run.kappa, least if value is None else value)
            for run in listed
            if run.verdict == answer
            for least, value, _ in [run.min_closeness]
        ]
        if places:
            xs, ys = zip(*places, strict=True)
            ax.plot(xs, ys, marker, color="C0", label=str(answer))
    if report.prediction is not None:
        value, low, high = report.prediction.closeness(grid)
        ax.fill_between(grid, low, high, color="C1", alpha=0.2, linewidth=0)
        ax.plot(grid, value, color="C1", label="C predicted")
    if tests:
        seen = [test.closeness for test in tests]
        at, *ends = np.array([(c.value, c.low, c.high) for c in seen]).T
        ax.errorbar(
            [test.kappa for test in tests],
            at,
            # From a C that is not known no bar can start.
            np.abs(np.clip(ends, 1, 1e3) - np.nan_to_num(at, posinf=1e3)),
            fmt="s",
            color="C2",
            capsize=3,
            label="C after short trainings",
        )
        values = np.append(values, at)
    shown = values[np.isfinite(values)]
    ax.set_ylim(1.0, 1.1 * max(*shown, verdict.closeness))
    ax.set_xlim(grid[0], grid[-1])
    one = verdict.batch_size
    ticks = [f"×{number(kappa)}\n{whole(kappa * one)}" for kappa in kappas]
    ax.set_xticks(kappas, ticks)
    ax.minorticks_off()
    ax.set_xlabel("κ, and batch size κB (examples)")
    ax.set_ylabel(f"C to the run at batch {whole(one)} (ratio)")
    ax.legend()


def as_svg(report):
    """The picture as inline SVG; empty without matplotlib or a verdict."""
    verdict = report.verdict
    if verdict.refusal or not verdict.runs:
        return ""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return ""
    # Text stays text; the same report is the same picture.
    settings = {"svg.fonttype": "none", "svg.hashsalt": "keras_svag"}
    file = io.StringIO()
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        draw(report, figure.subplots())
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    label = html.escaped(verdict.headline)
    return (
        f'<figure role="img" aria-label="{label}">'
        f"{svg[svg.index('<svg') :]}</figure>"
    )
