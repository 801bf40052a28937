"""The section of a report on the linear scaling rule."""

import math

from keras_svag.callbacks.markdown import (
    interval,
    number,
    percent_with_error,
    table,
    with_error,
)
from keras_svag.report_sections import (
    Section,
    one_seed,
    reasons_text,
    setting,
)
from keras_svag.scaling_study import BREAKING_FACTOR, share_of_noise


def scaling_section(study, figures):
    """`Section` of a `ScalingStudy`.

    Args:
        study: The study.
        figures: File name of its figure.
    """
    best = study.best
    observed = (
        f"The least test error, {number(best.test_error.value)}, is that of "
        f"B = {best.batch_size:,}. "
    )
    if study.breaks_at:
        observed += (
            f"It is first exceeded by more than {BREAKING_FACTOR - 1:.0%} of "
            f"its value at **B = {study.breaks_at:,}**; "
            f"{study.last_good:,} is the largest batch size before."
        )
    else:
        observed += (
            f"No larger batch size up to {study.last_good:,} exceeds it by "
            f"more than {BREAKING_FACTOR - 1:.0%} of its value: no break was "
            "observed."
        )
    reasons = reasons_text(
        reason for b in study.batches for reason in b.heuristic_reasons
    )
    paragraphs = [
        _prediction(study),
        f"{observed} {_equilibria(study)}".strip(),
        _scaling_table(study),
        "B\\* = κ_max·B is the largest batch size that the condition does not "
        "rule out, seen from B, with the 95% interval that follows from N/G's "
        "(errors of measurement, pooled over seeds). The prediction *failed* "
        "if a batch size above the interval still has a test error at most "
        f"{BREAKING_FACTOR - 1:.0%} above the best; *broke earlier* means that "
        "the first larger error lies at or below the interval, which a "
        "necessary condition allows and does not foresee; *not tested*, that "
        "no batch size lies above it; otherwise the prediction *held*. A "
        "dash: past the break, or not measured. C is the C-closeness to the "
        "smallest batch size over seeds; beyond B\\* it should exceed "
        f"{number(study.target)}.",
        f"The threshold 1/(C² − 1) for SGD's own N/G is "
        f"{number(study.threshold)}.",
    ]
    if reasons:
        paragraphs.append(f"The predictions are only a heuristic: {reasons}.")
    return Section(
        "Linear scaling",
        (*paragraphs, *one_seed(study.comparison)),
        {
            figures[0]: "G, N, N/G and test accuracy against the batch size; "
            "the predicted B\\* is that of the smallest batch size."
        },
        setting(study.comparison),
    )


def _prediction(study):
    first = study.batches[0]
    if study.refusal:
        return study.refusal
    if first.predicted is None:
        return "No N/G was measured at the smallest batch size: no prediction."
    low, point, high = first.predicted
    text = (
        f"Seen from B = {first.batch_size:,}, linear scaling is not ruled out "
        f"up to B = {number(low)}"
    )
    text += (
        f" and ruled out beyond {number(high)}"
        if math.isfinite(high)
        else ", and no larger batch size is ruled out"
    )
    if point is not None:
        text += f" (point estimate B\\* = {number(point)})"
    if first.held is None:
        return f"{text}; the smallest batch size is past the break."
    return f"{text}; the prediction {_HELD[first.held]}."


def _equilibria(study):
    """What R, G and N themselves say beyond the predicted interval."""
    first = study.batches[0]
    if first.predicted is None:
        return ""
    beyond = [
        batch.closeness
        for batch in study.batches
        if batch.closeness and batch.batch_size > first.predicted[2]
    ]
    if not beyond:
        return ""
    far = sum(closeness.value > study.target for closeness in beyond)
    return (
        "Beyond the interval the condition says that R, G and N are not "
        f"C-close to those at B = {first.batch_size:,}: measured so at {far} "
        f"of {len(beyond)} batch sizes."
    )


_HELD = {
    "held": "**held**",
    "failed": "**failed**",
    "broke earlier": "**did not foresee the break**, which came earlier; being "
    "only necessary, the condition allows that",
    "not tested": "**was not tested**: no batch size lies beyond",
}


def _scaling_table(study):
    return table(
        ["B", "η", "test error", "G", "N", "N/G", "B\\*", "prediction", "C"],
        [_scaling_row(batch) for batch in study.batches],
    )


def _scaling_row(batch):
    estimate = batch.estimate
    error = percent_with_error(
        batch.test_error.value, batch.test_error.standard_error
    )
    if batch.num_diverged:
        error += f" ({batch.num_diverged} diverged)"
    moments = ["–", "–", "–"]
    if estimate:
        point, low, high = share_of_noise(batch)
        moments = [
            with_error(estimate.grad_sq_norm, estimate.grad_sq_norm_se),
            with_error(estimate.noise_trace, estimate.noise_trace_se),
            f"{number(point)} {interval(low, high)}",
        ]
    predicted = "–"
    if batch.predicted:
        low, point, high = batch.predicted
        predicted = f"{number(point)} {interval(low, high)}"
    closeness = "–"
    if batch.closeness:
        closeness = number(batch.closeness.value)
        if batch.test_error.count > 1:
            ends = interval(batch.closeness.low, batch.closeness.high)
            closeness = f"{closeness} {ends}"
    return [
        f"{batch.batch_size:,}",
        number(batch.learning_rate),
        error,
        *moments,
        predicted,
        batch.held or "–",
        closeness,
    ]
