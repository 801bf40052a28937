"""The blocks of a report, in the order in which they are shown."""

import itertools
import math

import numpy as np

from keras_svag.branching.result import difference
from keras_svag.noise.numerals import exact, number, percent, whole, within
from keras_svag.reporting.blocks import Headline, Line, Table
from keras_svag.scaling import sentences

_MOST_LAYERS = 10
_LONGEST_NAME = 30


def blocks(report):
    """All that a `ScalingReport` shows."""
    verdict = report.verdict
    yield Headline(verdict.headline)
    yield Line(sentences.measured(verdict))
    if verdict.refusal:
        yield _diagnostics(report)
        return
    yield from map(Line, sentences.equilibrium(verdict))
    yield Line(sentences.sde(verdict))
    if verdict.runs:
        yield from _runs(verdict)
    if report.branches:
        yield from _branches(report)
    if report.earlier:
        yield _earlier(report)
    yield _diagnostics(report)
    if report.estimate.per_layer:
        yield _layers(report)
    if report.upper_end_line:
        yield Line(report.upper_end_line)
    yield from map(Line, sentences.notes(verdict))
    if verdict.heuristic:
        yield Line(sentences.BECAUSE, verdict.heuristic_reasons)


def _table(title, header, rows):
    return Table(title, tuple(header), tuple(map(tuple, rows)))


def _runs(verdict):
    """What is known of each run, and the arguments of its optimizer."""
    names = list(verdict.conditions.scaled(1.0) or {})

    def rows(names, *others):
        for kappa, run in verdict.runs.items():
            given = run.hyperparameters or {}
            yield (
                f"×{number(kappa)}",
                whole(run.batch_size),
                *(exact(given[n]) if n in given else "–" for n in names),
                *(text(run) for text in others),
            )

    yield _table(
        sentences.compared(verdict),
        ("κ", "batch", "learning rate", "verdict", "C at least"),
        rows(names[:1], lambda run: str(run.verdict), sentences.closeness),
    )
    if names[1:]:
        yield _table(
            f"Other arguments of {verdict.optimizer} there",
            ("κ", "batch", *names[1:]),
            rows(names[1:]),
        )


def _branches(report):
    """Bound, prediction and what short trainings have seen."""
    tests, prediction = report.branches, report.prediction
    title, header = "C by the bound and by short trainings", ["κ", "C at least"]
    if prediction is not None:
        title = "C by the bound, the prediction and short trainings"
        header.append("C predicted")
    rows = []
    for test in tests:
        run, seen = report.verdict.scaled_by(test.kappa), test.closeness
        row = [f"×{number(test.kappa)}", sentences.closeness(run)]
        if prediction is not None:
            value, low, high = prediction.closeness(test.kappa)
            row.append(within(low, value, high))
        rows.append([*row, within(seen.low, seen.value, seen.high)])
    yield _table(title, [*header, "C seen"], rows)
    yield _table(
        "Loss after short trainings, against that at batch "
        f"{whole(report.verdict.batch_size)}",
        ("κ", "batch", "examples", "difference", "verdict"),
        (
            (
                f"×{number(test.kappa)}",
                whole(test.scaled_batch_size),
                whole(test.examples),
                difference(test),
                str(test.verdict),
            )
            for test in tests
        ),
    )


def _earlier(report):
    return _table(
        "Earlier learning rates, in which the rule has to hold too",
        (report.unit, "learning rate", "N/G", "not ruled out", "ruled out"),
        (
            (
                earlier.window,
                exact(earlier.verdict.learning_rate),
                _ratio(earlier.estimate, earlier.verdict.level),
                *sentences.ends(earlier.verdict),
            )
            for earlier in report.earlier
        ),
    )


def _ratio(estimate, level):
    return within(*estimate.bands(level)["noise_to_signal"])


def _diagnostics(report):
    """How much is behind the numbers of each stretch."""

    def row(stretch):
        estimate = stretch.estimate
        size, shares = estimate.effective_sample_size, estimate.largest_share
        yield stretch.window
        yield whole(estimate.count)
        yield "–" if size is None else whole(size)
        yield from ("–", "–") if shares is None else map(percent, shares)
        yield sentences.at_rest(stretch.verdict)

    header = ("observations", "effective", "top 1% of G", "of S", "equilibrium")
    rows = map(row, report.stretches)
    return _table("Measured in", (report.unit, *header), rows)


def _layers(report):
    layers = report.estimate.layers_by_noise()
    total = np.nansum([layer.example_noise for layer in layers.values()])
    title = "By layer, the largest noise first"
    if len(layers) > _MOST_LAYERS:
        title = f"The {_MOST_LAYERS} layers of {len(layers)} with most noise"
    return _table(
        title,
        ("variable", "G", "N", "N/G", "share of N"),
        (
            (
                _shortened(name),
                number(layer.grad_sq_norm),
                number(layer.noise_trace),
                _ratio(layer, report.verdict.level),
                percent(layer.example_noise / (total or math.nan)),
            )
            for name, layer in itertools.islice(layers.items(), _MOST_LAYERS)
        ),
    )


def _shortened(name):
    is_long = len(name) > _LONGEST_NAME
    return f"…{name[1 - _LONGEST_NAME :]}" if is_long else name
