"""What TensorBoard shows of the gradient noise and the scaling rule."""

import importlib.util
import math
import os
import tempfile
import time

import numpy as np

from keras_svag import arguments
from keras_svag.scaling import sentences

_G = "gradient noise/squared gradient norm"
_N = "gradient noise/noise"
_RATIO = "gradient noise/noise-to-signal ratio"
_TAGS = {"grad_sq_norm": _G, "noise_trace": _N, "noise_to_signal": _RATIO}
_MAX_BATCH_SIZE = "scaling rule/largest batch size"
_BALANCE = "scaling rule/balance"
_LOW, _HIGH = " (low end)", " (high end)"

_FOLDER = "gradient_noise"

# One quantity a chart: a chart of several reports "Missing Tags" for every run
# in the folder that has none of them. TensorBoard shows the last chart first.
_CHARTS = {
    _BALANCE: "Balance, which is 1 at equilibrium",
    _MAX_BATCH_SIZE: "Batch size, ruled out above the band",
    _RATIO: "Noise-to-signal ratio N/G",
    _N: "Noise N",
    _G: "Squared gradient norm G",
}


def check_writable(log_dir):
    """Raises a `ValueError` where events cannot be written; looks at disks."""
    if importlib.util.find_spec("tensorboard") is None:
        wanted = "None where the package tensorboard is not installed"
        remedy = "pip install tensorboard"
        raise arguments.wrong("log_dir", wanted, log_dir, remedy)
    folder = os.path.join(log_dir, _FOLDER)
    if "://" in folder:
        return
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        wanted, why = "a directory that can be written", error.strerror
        raise arguments.wrong("log_dir", wanted, log_dir, why) from error


class NoiseSummaries:
    """Writes scalars over the training, their layout, and the report's card.

    A point is an average over the window that ends there: what the report
    would say if training ended there.

    A quantity with error bars is three scalars, `tag`, `tag (low end)` and
    `tag (high end)`, which the layout of the Custom Scalars tab draws as a line
    with its band. Where an interval has no upper end nothing is written: a band
    needs both. The layout has a chart for each quantity that has been written.

    Args:
        log_dir: Directory of the run; events go to its subdirectory
            `gradient_noise`.
    """

    def __init__(self, log_dir):
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(os.path.join(log_dir, _FOLDER))
        self._tags = set()

    def write_estimate(self, estimate, step, level=0.95):
        """Writes G, N and N / G with their bands at an epoch or step."""
        self._write_scalars(_bands(estimate, level), step)

    def write_scalars(self, report, step):
        """Writes what is known at an epoch or step: a report on the run."""
        verdict = report.verdict
        values = _bands(report.estimate, verdict.level)
        if verdict.balance is not None and math.isfinite(verdict.balance):
            values[_BALANCE] = verdict.balance
        if not verdict.refusal and math.isfinite(verdict.interval[1]):
            # Weight decay alone bounds the batch far above what is measured.
            values |= _band(
                _MAX_BATCH_SIZE,
                verdict.not_ruled_out_up_to,
                verdict.max_batch_size,
                verdict.ruled_out_beyond,
            )
        self._write_scalars(values, step)

    def write_report(self, report, step):
        """Writes the report as a card of text, at the end of training."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        tag = sentences.rule(report.verdict)
        self._write(text_pb(tag, report._repr_markdown_()), step)
        self._writer.flush()

    def close(self):
        """Closes the file of events."""
        self._writer.close()

    def _write_scalars(self, values, step):
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb

        for tag, value in values.items():
            self._write(scalar_pb(tag, value), step)
        if not self._tags.issuperset(values):
            self._tags |= values.keys()
            self._write(_layout(self._tags), step)
        self._writer.flush()

    def _write(self, summary, step):
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(
            Event(wall_time=time.time(), step=step, summary=summary)
        )


def _bands(estimate, level):
    """The scalars of an estimate, `{tag: value}`."""
    bands = estimate.bands(level)
    return {
        tag: end
        for name, ends in bands.items()
        for tag, end in _band(_TAGS[name], *ends).items()
    }


def _band(tag, low, value, high):
    ends = {tag + _LOW: low, tag: value, tag + _HIGH: high}
    if any(end is None or not math.isfinite(end) for end in ends.values()):
        return {}
    return ends


def _layout(tags):
    """The charts of what is written, as a summary."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata
    from tensorboard.util import tensor_util

    charts = []
    for tag, title in _CHARTS.items():
        if tag not in tags:
            continue
        # Charts of plain lines would be smoothed, and lines leave their bands.
        ends = {"lower": tag + _LOW, "upper": tag + _HIGH}
        if not tags.issuperset(ends.values()):
            ends = {"lower": tag, "upper": tag}
        series = layout_pb2.MarginChartContent.Series(value=tag, **ends)
        margin = layout_pb2.MarginChartContent(series=[series])
        charts.append(layout_pb2.Chart(title=title, margin=margin))
    category = layout_pb2.Category(
        title="Gradient noise and the scaling rule", chart=charts
    )
    layout = layout_pb2.Layout(category=[category])
    value = Summary.Value(
        tag=metadata.CONFIG_SUMMARY_TAG,
        metadata=metadata.create_summary_metadata(),
        tensor=tensor_util.make_tensor_proto(
            layout.SerializeToString(), dtype=np.object_
        ),
    )
    return Summary(value=[value])
