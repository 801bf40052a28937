"""The noise of mini-batches, measured where training takes none."""

import dataclasses

import keras

from keras_svag import backend
from keras_svag.noise.moments import squared_norm
from keras_svag.noise.series import NoiseSeries
from keras_svag.probe.invariance import is_scale_invariant
from keras_svag.probe.measurement import measure_gradient_noise
from keras_svag.reporting.report import scaling_report
from keras_svag.scaling.conditions import conditions_of

_BATCHES = 32
# Enough to normalize a batch by its own statistics.
_ROWS = 8


class ProbedNoise(keras.callbacks.Callback):
    """Measures the noise of mini-batches at the end of each epoch.

    Training by full passes over the data has none. The logs get the keys that
    `GradientNoiseMonitor` gives them.

    Args:
        images, labels: all examples, as the model takes them.
        batch_size: B, examples of a mini-batch.
        judged: keyword arguments of `scaling_report`, or None for no report.

    Attributes:
        series: `NoiseSeries`, a row a probe.
    """

    def __init__(self, images, labels, batch_size, judged=None):
        super().__init__()
        self.batch_size = batch_size
        self.series = NoiseSeries(sampling="independent")
        self._examples = images, labels
        self._judged = judged
        self._estimate = None

    def on_epoch_end(self, epoch, logs=None):
        optimizer = self.model.optimizer
        self._estimate = estimate = measure_gradient_noise(
            self.model,
            self._examples,
            self.batch_size,
            num_batches=_BATCHES,
            seed=epoch,
            verbose=0,
        )
        decayed = backend.decayed_variables(self.model)
        norm = squared_norm(decayed or self.model.trainable_variables)
        iterations = int(keras.ops.convert_to_numpy(optimizer.iterations))
        self.series.append(
            step=iterations,
            epoch=epoch + 1,
            iteration=iterations,
            learning_rate=float(
                keras.ops.convert_to_numpy(optimizer.learning_rate)
            ),
            rows=self.batch_size,
            weight_sq_norm=float(norm),
            grad_sq_norm=estimate.grad_sq_norm,
            example_noise=estimate.example_noise,
        )
        logs.update(
            grad_sq_norm=estimate.grad_sq_norm,
            noise_trace=estimate.noise_trace,
            noise_to_signal=estimate.noise_to_signal,
            noise_scale=estimate.noise_scale,
            weight_sq_norm=float(norm),
        )

    def estimate(self):
        """`NoiseEstimate` of the last probe."""
        return self._estimate

    @property
    def report(self):
        """`ScalingReport` on all probes, or None if none is wanted."""
        if self._judged is None:
            return None
        images, _ = self._examples
        conditions = dataclasses.replace(
            conditions_of(self.model.optimizer),
            scale_invariant=is_scale_invariant(self.model, images[:_ROWS]),
            other_reasons=("noisy_gradient_descent",),
        )
        return scaling_report(
            self.series, conditions, batch_size=self.batch_size, **self._judged
        )

    def state_dict(self):
        """The probes so far, as a value of JSON."""
        return self.series.to_dict()

    def load_state_dict(self, state):
        """Goes on from what `state_dict` returned."""
        self.series = NoiseSeries.from_dict(state)
