"""A callback that measures the gradient noise beside training."""

import collections
import contextlib
import functools
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import keras
import numpy as np

from keras_svag import arguments, backend
from keras_svag.callbacks.blocks import Blocks
from keras_svag.callbacks.epoch_size import EpochSize
from keras_svag.callbacks.measurable import check_measurable, failed_half
from keras_svag.callbacks.own_steps import OwnSteps
from keras_svag.callbacks.tensorboard import NoiseSummaries, check_writable
from keras_svag.models.svag_model import SVAGModel
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.series import NoiseSeries
from keras_svag.optimizers.paired import PairedOptimizer

Logs = dict[str, Any] | None

# An epoch's logs are of the estimate over at least so many observations.
_LOGGED = 100
_LOGS = "grad_sq_norm", "noise_trace", "noise_to_signal", "noise_scale"
# Observations that may wait on the device until they are surely there.
_WAITING = 32
# Relative differences of two losses that float32 may make.
_ROUNDING = 1e-6
# Attributes that are part of the state.
_NUMBERS = (
    "steps",
    "steps_before_epoch",
    "settled",
    "epoch",
    "epochs_of_earlier_fits",
    "next_look",
)


class GradientNoiseMonitor(keras.callbacks.Callback):
    """Measures the gradient noise of the training that it is a callback of.

    ```python
    monitor = keras_svag.GradientNoiseMonitor()
    model.fit(x, y, batch_size=128, epochs=10, callbacks=[monitor])
    print(monitor.estimate().describe())  # N/G = 41 [33, 55]
    ```

    The model trains as without it: the same weights, random draws and logs,
    to the bit. Of each block of `every` training steps one is drawn at random.
    Before it, the gradients of its batch's rows 0, 2, 4, … and 1, 3, 5, … are
    computed at the present weights, whatever that changes is put back, and the
    batch is handed to the model's own training step. The two gradients give an
    observation of G = |∇L|² and of S = Tr Σ¹, the noise of one example; that
    of a batch of B is N = S/B. A model trained by SVAG in an `SVAGModel` has a
    pair in every step: they are taken as they are, at no cost.

    At the end of every epoch the logs have, for `History` and all callbacks
    that come later in the list, the averages over the epoch, or over the last
    100 observations if it has fewer; NaN where there is none yet:

    | key | |
    |---|---|
    | `grad_sq_norm` | G, squared gradient units |
    | `noise_trace` | N at the batch size trained with |
    | `noise_to_signal` | N/G |
    | `noise_scale` | B N/G in examples, the gradient noise scale |
    | `weight_sq_norm` | R, the squared norm of the decayed weights (of all \
trainable ones if none is decayed) |
    | `preconditioned_noise_to_signal` | N/G in the norm of Adam, RMSprop and \
their kin |

    A batch that comes again in a later epoch is no new draw: error bars are
    those of the different batches, which a sum over their rows tells apart.
    After `keras.utils.set_random_seed` Keras on TensorFlow shuffles arrays
    into one order for all epochs; then the later ones tell little that is new.

    What is measured is the noise of a half batch's loss. Where the loss of a
    batch is no mean over its examples (a sum, BatchNormalization, in-batch
    negatives, masks), that is another loss: `estimate().assumptions` says so,
    and where a `train_step` of the model's own may train by yet another.

    Limits. Variables and the global generators of Keras, NumPy and Python are
    put back; the last two not where threads make the batches by Python code,
    which draws from them at the same time: a generator or a `PyDataset` on
    TensorFlow, several workers elsewhere. Attributes of Python objects that
    `call` changes, eager or while it is traced, are not put back (on PyTorch
    those of layers, modules, losses and metrics are), nor lookup tables. Under
    a `tf.distribute` strategy what draws from TensorFlow's own generator
    (`tf.random.normal`) does not draw the same numbers.

    The place in the block, the steps done and the observations go on over
    several calls of `fit` with one model; another model starts anew. An epoch
    that is trained anew replaces its observations.

    Args:
        every: Steps of a block, of which one is measured. None: 4 in the
            first 2,000 steps, then a 500th of the steps done, at most 100; 1
            in an `SVAGModel`.
        num_examples: Size n of the training set, whose epochs are
            permutations of it, to correct for what is drawn without
            replacement. `"auto"`: what `fit` shows of its data, or at the
            latest its first epoch; where neither does, the size is not known.
            None: batches are independent draws.
        per_layer: Whether to measure each trainable variable apart too.
        loss: Replaces the compiled loss, as in `keras.Model.compile`: for a
            `train_step` of the model's own that computes its loss by itself.
            Where the data have no targets y, it is called with (x, y_pred).
        log_dir: Directory for TensorBoard; events go to its subdirectory
            `gradient_noise`.
        update_freq: `"epoch"` writes them at the ends of epochs, an integer
            every so many steps.
        seed: Seed of the steps that are measured; None is a fixed one.

    Raises:
        TypeError: If an argument is no number where one is wanted.
        ValueError: If one is out of range; at the start of training, if
            batches of the model cannot be halved, if there is nothing to
            measure, or if `num_examples` is not that of the data; at the end
            of the first epoch, where only that shows how many they are.
    """

    def __init__(
        self,
        every: int | None = None,
        *,
        num_examples: int | Literal["auto"] | None = "auto",
        per_layer: bool = False,
        loss: Any = None,
        log_dir: str | os.PathLike[str] | None = None,
        update_freq: int | Literal["epoch"] = "epoch",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.set_params({})  # A `CallbackList` of the script's may have none.
        self.every = arguments.integer("every", every, optional=True)
        if num_examples != "auto":
            remedy = "'auto' takes what `fit` shows of its data"
            arguments.integer(
                "num_examples", num_examples, 2, optional=True, remedy=remedy
            )
        self.num_examples = num_examples
        self.per_layer = arguments.boolean("per_layer", per_layer)
        self.loss = loss
        self.log_dir = arguments.instance(
            "log_dir", log_dir, (str, os.PathLike, type(None)), "None or a path"
        )
        if update_freq != "epoch":
            arguments.integer(
                "update_freq", update_freq, remedy="or 'epoch', for its ends"
            )
        self.update_freq = update_freq
        self.seed = arguments.integer("seed", seed, least=0, optional=True)
        self._start_anew()

    def _start_anew(self):
        self._series = NoiseSeries()
        self._blocks = Blocks(self.seed)
        # Steps done before this epoch, and before the call that begins.
        self._steps_before_epoch = self._steps = 0
        # Observations of an optimizer that was compiled with before.
        self._settled = 0
        self._epoch = self._epochs_of_earlier_fits = 0
        # The first step at which the loss of a batch is looked at.
        self._next_look = 0
        self._model_seen = self._program = None
        # The steps of an `SVAGModel`, which are their own observations.
        self._own: OwnSteps | None = None
        self._function_seen = self._optimizer_seen = None
        self._is_watching = self._layers_are_known = False
        self._feed = backend.Feed()
        # Values on the device, each with the function that takes them.
        self._waiting: collections.deque = collections.deque()
        self._epoch_size = EpochSize()
        self._rows_vary = False
        self._is_first_epoch_of_fit = False
        self._summaries = None
        self._step_written = 0

    # Keras and the script may copy a callback in the middle of a fit.
    def __getstate__(self):
        self._fetch()
        of_the_fit = ("model", "program", "own", "summaries")
        seen = ("model_seen", "function_seen", "optimizer_seen")
        return self.__dict__ | {f"_{name}": None for name in of_the_fit + seen}

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        if self._model_seen is not None and model is not self._model_seen:
            self._fetch()
            self._start_anew()
        # Keras's own property writes the state back on some backends.
        self._model_seen = model
        if isinstance(model, SVAGModel) and model.compiled:
            # Before `fit` makes the training step.
            observations = model.observe(self.per_layer)
            if self._own is None:
                self._own = OwnSteps(observations)

    def on_train_begin(self, logs: Logs = None) -> None:
        self._epoch_size.data = backend.data_of_fit()
        model = self._model_seen
        if model.built and not model.trainable_variables:
            raise ValueError(
                f"The model {model.name!r} has no trainable weights, so there "
                "is no gradient whose noise could be measured; make a layer "
                "trainable."
            )
        if self._own is None:
            name, data = type(self).__name__, self._epoch_size.data
            check_measurable(name, model, self.loss, data)
        if self._writes_events:
            check_writable(self.log_dir)
        self._epoch_size.settle(self._series, self.num_examples)
        self._is_first_epoch_of_fit = True

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._drop_what_is_trained_anew()
        number = self._epochs_of_earlier_fits + epoch + 1
        if self._is_first_epoch_of_fit and number <= self._epoch:
            self._epochs_of_earlier_fits += self._epoch + 1 - number
            number = self._epoch + 1
        self._is_first_epoch_of_fit = False
        self._epoch = number
        self._leave_own_steps()
        lost = self._series.lost_epochs
        lost -= {epoch for epoch in lost if epoch >= number}
        self._epoch_size.begin_epoch()

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        # Not at a batch's end: Keras would then wait for the logs of each.
        self._begin_call(self._steps_before_epoch + batch)

    def on_test_begin(self, logs: Logs = None) -> None:
        # Within `fit`, at an epoch's end; then Keras counts anew.
        self._epoch_size.count(self._model_seen)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._fetch()
        model, steps = self._model_seen, self.params.get("steps")
        is_stopped = model.stop_training
        begun = self._steps - self._steps_before_epoch
        done = begun + model.steps_per_execution
        if steps is None:
            # Without a stop, the last call that began met the end of the data.
            steps = done if is_stopped else begun
        elif is_stopped:
            steps = min(steps, done)
        if not is_stopped:
            rows = self._series.largest_rows
            self._epoch_size.end_epoch(model, steps, rows)
        self._epoch_size.settle(self._series, self.num_examples)
        self._note_loss(logs)
        self._steps_before_epoch += steps
        self._steps = self._steps_before_epoch
        if logs is not None:
            logs.update(self._logs())
        self._write(is_epoch=True)

    def on_train_end(self, logs: Logs = None) -> None:
        self._fetch()
        self._leave_own_steps()
        if self._summaries is not None:
            self._summaries.close()
            self._summaries = None

    @contextlib.contextmanager
    def watch(self, model: keras.Model) -> Iterator["GradientNoiseMonitor"]:
        """Context in which `model.train_on_batch` is measured as `fit` is.

        ```python
        with monitor.watch(model):
            for x, y in batches:
                model.train_on_batch(x, y)
        ```

        Args:
            model: A compiled `keras.Model`.

        Raises:
            TypeError: If it is none.
        """
        backend.check_model(model)
        self.set_params({})
        self.set_model(model)
        self.on_train_begin()
        self._epoch = max(self._epoch, 1)
        self._leave_own_steps()
        hers = model.train_function
        self._is_watching = True

        def watched(*args):
            nonlocal hers
            model.train_function = hers
            # Not earlier: Keras builds the optimizer in its first call.
            model.make_train_function()
            hers = model.train_function
            try:
                self._begin_call(self._steps)
                return model.train_function(*args)
            finally:
                self._steps += 1
                if model.train_function is hers:
                    model.train_function = watched

        model.train_function = watched
        try:
            yield self
        finally:
            if model.train_function is watched:
                model.train_function = hers
            self._is_watching = False
            self._steps_before_epoch = self._steps
            self.on_train_end()

    @property
    def series(self) -> NoiseSeries:
        """The `NoiseSeries` of all observations so far."""
        self._fetch()
        return self._series

    @property
    def batch_size(self) -> int | None:
        """B: the examples of one update of SGD, or of the optimizer that SVAG
        simulates; None before the first observation."""
        rows, model = self._series.largest_rows, self._model_seen
        if rows is None:
            return None
        optimizer = getattr(model, "optimizer", None)
        optimizer = backend.without_loss_scale(optimizer)
        # As they are fed, for one update.
        batches = backend.accumulated_batches(optimizer)
        if isinstance(optimizer, PairedOptimizer):
            batches = 1 if optimizer.pairing == "independent" else 2
            batches /= 2 if isinstance(model, SVAGModel) else 1
        return max(round(batches * rows), 1)

    def estimate(self) -> NoiseEstimate:
        """`NoiseEstimate` of the last epoch, as the epoch's logs have it.

        It is over the epoch's observations, or over the last 100 if it has
        fewer; `series.window(...).estimate(...)` is that of another window.
        """
        return self._last().estimate(self.batch_size)

    def _last(self):
        self._fetch()
        last = self._series.window(epochs=1)
        return last if len(last) >= _LOGGED else self._series.tail(_LOGGED)

    def _logs(self):
        last = self._last()
        estimate = last.estimate(self.batch_size)
        logs = {name: getattr(estimate, name) for name in _LOGS}
        norm = np.mean(last["weight_sq_norm"]) if len(last) else math.nan
        logs["weight_sq_norm"] = float(norm)
        optimizer = getattr(self._model_seen, "optimizer", None)
        if backend.has_second_moments(optimizer):
            logs["preconditioned_noise_to_signal"] = last.estimate(
                self.batch_size, preconditioned=True
            ).noise_to_signal
        return logs

    def _note_loss(self, logs):
        loss = (logs or {}).get("loss")
        if isinstance(loss, float) and not math.isfinite(loss):
            # The last one that has observations.
            epochs = self._series["epoch"]
            last = epochs[-1] if len(epochs) else self._epoch
            self._series.lost_epochs.add(int(last))

    def _drop_what_is_trained_anew(self):
        """Drops observations of steps after those that the model has done."""
        self._fetch()
        optimizer = getattr(self._model_seen, "optimizer", None)
        if self._optimizer_seen not in (None, optimizer):
            self._settled = int(self._series["observations"].sum())
            self._next_look = 0
        self._optimizer_seen = optimizer
        counted = np.cumsum(self._series["observations"])
        settled = int(np.searchsorted(counted, self._settled, "right"))
        series = self._series[settled:]
        done = float(backend.iterations(optimizer))
        first = len(series.before(done))
        # A train_step may have optimizers of its own, and this one no steps.
        if first < len(series) and series["iteration"][-1] > 0:
            batches = series["iteration"][first] - done
            batches *= backend.accumulated_batches(optimizer)
            self._steps = round(series["step"][first] - 1 - batches)
            self._steps_before_epoch = self._blocks.end = self._steps
            self._epoch = 0
            self._series = self._series[: settled + first]

    def _begin_call(self, step):
        """Has the call that begins measured, if that is its turn."""
        model, self._steps = self._model_seen, step
        steps = model.steps_per_execution
        self._write()
        every = self.every or (None if self._own is None else 1)
        is_due = self._blocks.is_due(step, steps, every)
        function = backend.innermost(model.train_function)
        if function is None:
            # In a loop of the script's own, `train_on_batch` makes it later.
            return
        is_new = function is not self._function_seen
        self._function_seen = function
        if is_new:
            # Another loss, or other weights, may be trained from now on.
            self._program, self._layers_are_known = None, False
        if self._own is not None:
            if is_due and not is_new and self._steps >= self._next_look:
                # Before the model trains on it.
                self._stand_in(lambda batch, _: self._look_at_batch(batch))
            if is_due:
                self._own.choose(self._blocks.due + 1)
            if self._own.is_full(step + steps):
                self._take_own(step)
                self._fetch(keep=1)
        elif is_new:
            # It gets its trace from `fit`, and not from a batch of ours.
            note = functools.partial(setattr, self, "_rows_vary")
            backend.FirstCall(model, self._feed, note)
            self._blocks.due = max(self._blocks.due, step + steps)
        elif is_due:
            self._stand_in(self._observe)

    def _stand_in(self, observe):
        """Has a function see one batch of the call that begins."""
        choose = self._blocks.choose
        backend.Beside(
            self._model_seen, self._feed, choose, observe, self._is_watching
        )

    def _observe(self, batch, place):
        """Measures a batch that is about to be trained on."""
        if backend.fewest_rows(batch) < 2:
            if not len(self.series):
                warnings.warn(
                    f"{type(self).__name__} halves every batch, and does not "
                    f"observe one of one row: {backend.CANNOT_HALVE}",
                    stacklevel=2,
                )
            return
        self._make_program()
        if self._steps >= self._next_look:
            self._look_at_batch(batch)
        try:
            values = self._program.moments(batch)
        except Exception as error:
            if not backend.is_one_process(self._model_seen):
                # Perhaps another worker is gone.
                raise
            sentence = failed_half(type(self).__name__, self._model_seen, error)
            if not len(self.series):
                raise ValueError(sentence) from error
            # Other batches could be halved, and training shall not end.
            warnings.warn(sentence, stacklevel=2)
            return
        step, layers = self._steps + place + 1, self._program.layers
        self._wait(values, self._append, step, self._epoch, layers)
        self._fetch(keep=_WAITING)

    def _make_program(self):
        if self._program is None:
            self._program = backend.PairProgram(
                self._model_seen,
                self.loss,
                self.per_layer,
                keeps_generators=not self._epoch_size.data.is_read_in_python,
                rows_vary=self._rows_vary,
            )

    def _look_at_batch(self, batch):
        """Compares the loss of a batch with the mean of its halves'."""
        # Some couplings show in a model that is trained.
        self._next_look = 2 * (self._steps + 1)
        if self._pairs_are_batches:
            return
        self._make_program()
        try:
            losses = self._program.losses(batch)
        except Exception:
            # A model may compute something else where it is not trained, and
            # training must not end because of it.
            return
        self._wait(losses, self._append_losses, self._steps, self._epoch)

    @property
    def _pairs_are_batches(self):
        """Whether the halves are batches of the SGD that is simulated."""
        if self._own is None:
            return False
        optimizer = backend.without_loss_scale(self._model_seen.optimizer)
        return optimizer.pairing == "independent"

    def _leave_own_steps(self):
        if self._own is not None:
            self._own.leave()

    def _take_own(self, done=None):
        """Takes the rows of an `SVAGModel`, after so many steps if known."""
        begun = self._steps + self._model_seen.steps_per_execution
        rows, place = self._own.take(begun, done)
        layers = self._own.layers
        self._wait(rows, self._append_own, place, self._epoch, layers)

    def _wait(self, values, append, *where):
        """Has values of the device appended when they are surely there."""
        self._waiting.append((values, functools.partial(append, *where)))

    def _fetch(self, keep=0):
        """Appends to the series what has waited on the device."""
        if not keep and self._own is not None and self._own.is_watched:
            self._take_own()
        while len(self._waiting) > keep:
            values, append = self._waiting.popleft()
            append(backend.fetched(values))

    def _append_losses(self, step, epoch, losses):
        whole, mean = float(losses["whole"]), float(losses["mean"])
        if not (math.isfinite(whole) and math.isfinite(mean)):
            self._series.lost_epochs.add(epoch)
            return
        size = max(abs(whole), abs(mean)) or 1.0
        difference = abs(whole - mean) / size
        if difference < _ROUNDING:
            # The last bits are the program's, made anew on resuming.
            difference = 0.0
        self._series.couplings.append((step, difference))

    def _append_own(self, place, epoch, layers, rows):
        keeps_all = self.every in (None, 1)
        values = self._own.new_rows(rows, place, keeps_all)
        if values:
            self._append(values.pop("step"), epoch, layers, values)

    def _append(self, step, epoch, layers, values):
        model, codes = self._model_seen, self._series.codes
        if not self._layers_are_known:
            # Of this train function: a layer may be frozen at first.
            self._layers_are_known = True
            is_normalized = backend.has_batch_normalization(model)
            if is_normalized and not self._pairs_are_batches:
                codes.add("batch_normalization")
            if self._own is None and backend.has_own_step(model):
                codes.add("own_train_step")
        if self._program is not None and self._program.is_masked:
            codes.add("masked_loss")
        moments = values.pop("layers", ())
        if not self.per_layer:
            moments = layers = ()
        of_layers = np.moveaxis(moments, -2, 0) if len(layers) else ()
        self._series.append(
            step=step,
            epoch=epoch,
            layer_moments=dict(zip(layers, of_layers, strict=True)),
            **values,
        )

    def _write(self, is_epoch=False):
        """Writes a point for TensorBoard, if it is time for one."""
        in_steps = self.update_freq != "epoch"
        since = self._steps - self._step_written
        is_due = is_epoch or (in_steps and since >= self.update_freq)
        if self._writes_events and is_due and len(self.series):
            self._step_written = self._steps
            self._summaries = self._summaries or NoiseSummaries(self.log_dir)
            self._write_point(self._steps if in_steps else self._epoch)

    @property
    def _writes_events(self):
        return self.log_dir is not None and backend.writes_files(
            self._model_seen
        )

    def _write_point(self, place):
        self._summaries.write_estimate(self.estimate(), place)

    def state_dict(self) -> dict[str, Any]:
        """What the callback has seen, as plain values for strict JSON."""
        self._fetch()
        numbers = {name: getattr(self, f"_{name}") for name in _NUMBERS}
        series = {"series": self._series.to_dict()}
        return series | numbers | self._blocks.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` returned.

        Raises:
            ValueError: If `state` is damaged.
        """
        try:
            series = NoiseSeries.from_dict(state["series"])
            numbers = {
                name: arguments.integer(name, state[name], least=0)
                for name in _NUMBERS
            }
            blocks = Blocks()
            blocks.load_state_dict(state)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                "`state` must be what `state_dict` returned, got "
                f"{state!r:.200}."
            ) from error
        self._series, self._blocks = series, blocks
        for name, number in numbers.items():
            setattr(self, f"_{name}", number)
        self._optimizer_seen = None
