"""What TensorBoard shows of the gradient noise and the linear scaling rule."""

import math
import os

import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar

from keras_svag.callbacks.markdown import (
    escaped,
    interval,
    number,
    table,
)

_G = "gradient_noise/grad_sq_norm"
_N = "gradient_noise/noise_trace"
_RATIO = "noise_to_signal/ratio"
_THRESHOLD = "noise_to_signal/threshold"
_KAPPA = "max_batch_multiplier/kappa_max"
_BALANCE = "equilibrium/balance"

# Characters of the longest bar: a longer one breaks the lines of the table.
_BAR = 12


class NoiseSummaries:
    """Writes scalars over the training, their layout, and the report's card.

    A point is an average over the window that ends there: what the report
    would say if training ended there.

    A quantity with error bars is three scalars, `tag`, `tag_low` and
    `tag_high`, which the layout of the Custom Scalars tab draws as a line with
    its band. Where an interval has no upper end nothing is written: a band
    needs both.

    Args:
        log_dir: directory of the run; events go to its subdirectory
            `linear_scaling`.
    """

    def __init__(self, log_dir):
        self._writer = tf.summary.create_file_writer(
            os.path.join(log_dir, "linear_scaling")
        )
        with self._writer.as_default(step=0):
            tf.summary.experimental.write_raw_pb(
                custom_scalar.pb(_layout()).SerializeToString()
            )

    def write_scalars(self, report, step):
        """Writes what is known at an epoch or step: a report on the run."""
        verdict, estimate = report.verdict, report.estimate
        with self._writer.as_default(step=step):
            errors = estimate.student_t(verdict.level)
            for tag, value, error in (
                (_G, estimate.grad_sq_norm, estimate.grad_sq_norm_se),
                (_N, estimate.noise_trace, estimate.noise_trace_se),
            ):
                reach = errors * error
                _band(tag, value - reach, value, value + reach)
            low, high = verdict.interval
            _band(_RATIO, low, verdict.noise_to_signal, high)
            _scalar(_THRESHOLD, verdict.min_noise_to_signal)
            if math.isfinite(high):
                # Weight decay alone bounds κ_max far above what is measured.
                _band(
                    _KAPPA,
                    verdict.max_multiplier_low,
                    verdict.max_multiplier,
                    verdict.max_multiplier_high,
                )
            _scalar(_BALANCE, verdict.balance)
        self._writer.flush()

    def write_report(self, report, step):
        """Writes the text cards, at the end of training."""
        with self._writer.as_default(step=step):
            tf.summary.text(
                f"{report.verdict.rule}_scaling_rule", report_markdown(report)
            )
            if report.estimate.per_layer:
                tf.summary.text(
                    "gradient_noise_per_layer",
                    layers_markdown(report.estimate.per_layer),
                )

    def close(self):
        """Closes the file of events."""
        self._writer.close()


def _scalar(tag, value):
    if value is not None and math.isfinite(value):
        tf.summary.scalar(tag, value)


def _band(tag, low, value, high):
    ends = (low, value, high)
    if any(end is None or not math.isfinite(end) for end in ends):
        return
    for suffix, end in zip(("_low", "", "_high"), ends, strict=True):
        tf.summary.scalar(tag + suffix, end)


def _layout():
    def band(tag):
        return layout_pb2.MarginChartContent.Series(
            value=tag, lower=f"{tag}_low", upper=f"{tag}_high"
        )

    def line(tag):
        return layout_pb2.MarginChartContent.Series(
            value=tag, lower=tag, upper=tag
        )

    def chart(title, *series):
        # Charts of plain lines would be smoothed, and lines leave their bands.
        content = layout_pb2.MarginChartContent(series=series)
        return layout_pb2.Chart(title=title, margin=content)

    return layout_pb2.Layout(
        category=[
            layout_pb2.Category(
                title="Gradient noise and the scaling rule",
                # TensorBoard shows the last one first.
                chart=[
                    chart("Balance: 1 at equilibrium", line(_BALANCE)),
                    chart(
                        "κ_max: factors on the batch above the band are "
                        "ruled out",
                        band(_KAPPA),
                    ),
                    chart(
                        "N/G with its 95% band, and what the run needs to "
                        "follow its SDE",
                        band(_RATIO),
                        line(_THRESHOLD),
                    ),
                    chart(
                        "G = |∇L|² and N = Tr Σ, with 95% bands",
                        band(_G),
                        band(_N),
                    ),
                ],
            )
        ]
    )


def report_markdown(report):
    """A `ScalingReport` as Markdown."""
    verdict = report.verdict
    name = verdict.rule_name.capitalize()
    sections = [f"### {name} scaling rule", verdict.headline]
    if not verdict.refusal:
        rows = [
            [
                f"{kappa * verdict.batch_size:,.0f}",
                escaped(verdict.scaled_text(kappa)),
                str(answer),
                escaped(report.min_closeness_text(kappa)),
            ]
            for kappa, answer in verdict.multiplier_verdicts.items()
        ]
        sections.append(f"{verdict.compared}:")
        sections.append(
            table(["batch", report.scaled_name, "verdict", "closeness"], rows)
        )
        sections.append(report.sde_line)
    sections.append(report.window_line)
    sections += [note.rstrip(".") for note in verdict.notes]
    sections += [f"Before, {earlier.summary}" for earlier in report.earlier]
    if verdict.heuristic and not verdict.refusal:
        reasons = [f"- {escaped(r)}" for r in verdict.heuristic_reasons]
        sections += ["**Only a heuristic**, because", "\n".join(reasons)]
    return "\n\n".join(sections)


def layers_markdown(per_layer):
    """G, N and N / G of every variable as a table, the largest N first.

    Args:
        per_layer: `{name: NoiseEstimate}`.
    """
    layers = sorted(
        per_layer.items(), key=lambda item: item[1].noise_trace, reverse=True
    )
    total = sum(estimate.noise_trace for _, estimate in layers)
    largest = layers[0][1].noise_trace
    rows = []
    for name, estimate in layers:
        share = estimate.noise_trace / total if total > 0 else 0.0
        bar = round(_BAR * estimate.noise_trace / largest) if total > 0 else 0
        point = estimate.noise_to_signal
        rows.append(
            [
                escaped(name),
                f"{estimate.grad_sq_norm:.3g}",
                f"{estimate.noise_trace:.3g}",
                f"{number(point if estimate.grad_sq_norm > 0 else None)} "
                f"{interval(*estimate.interval())}",
                f"{'█' * bar} {share:.1%}",
            ]
        )
    header = ["variable", "G", "N", "N/G, 95% interval", "share of N"]
    return table(header, rows)
