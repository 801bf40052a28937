"""A callback that measures the gradient noise beside training."""

import collections
import contextlib
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import keras
import numpy as np

from keras_svag import arguments, backend
from keras_svag.callbacks.tensorboard import NoiseSummaries, check_writable
from keras_svag.models.svag_model import SVAGModel
from keras_svag.noise.estimate import NoiseEstimate
from keras_svag.noise.series import NoiseSeries
from keras_svag.optimizers.paired import PairedOptimizer

# An epoch's logs are the estimate over at least so many observations.
_LOGGED = 100
# Observations that may wait on the device until they are surely there.
_WAITING = 32
# Relative differences of two losses that float32 may make.
_ROUNDING = 1e-6
# Where `every` is None: in blocks of 4 steps for 2,000 steps, then of a 500th
# of the steps done, until a hundredth of the steps is measured.
_FIRST_BLOCK, _BLOCKS_IN_RUN, _LONGEST_BLOCK = 4, 500, 100
# What has a terminal print Keras's errors in bold; a KeyError shows escapes.
_STYLE = re.compile(r"(?:\x1b|\\x1b)\[\d*m|\\n")


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
            arguments.integer(
                "num_examples",
                num_examples,
                least=2,
                optional=True,
                remedy="'auto' takes what `fit` shows of its data",
            )
        self.num_examples = num_examples
        self.per_layer = arguments.boolean("per_layer", per_layer)
        self.loss = loss
        if log_dir is not None:
            arguments.instance(
                "log_dir", log_dir, (str, os.PathLike), "None or a path"
            )
        self.log_dir = log_dir
        if update_freq != "epoch":
            arguments.integer(
                "update_freq", update_freq, remedy="or 'epoch', for its ends"
            )
        self.update_freq = update_freq
        self.seed = arguments.integer("seed", seed, least=0, optional=True)
        self._forget_model()
        self._start_anew()

    def _start_anew(self):
        self._series = NoiseSeries()
        self._random = np.random.default_rng(self.seed or 0)
        # Steps done before this epoch, and before the call that begins.
        self._steps_before_epoch = self._steps = 0
        # Observations of an optimizer that was compiled with before.
        self._settled = 0
        self._epoch = self._epochs_of_earlier_fits = 0
        # The first step after the block, and the one to measure, from 0.
        self._block_end = self._due = 0
        # The first step at which the loss of a batch is looked at.
        self._next_look = 0

    def _forget_model(self):
        self._model_seen = self._program = self._observations = None
        self._function_seen = self._optimizer_seen = None
        # Steps of an `SVAGModel`: how many it has counted when its rows were
        # last taken, what that is short of the steps done, the step at which
        # they were, and those to keep where not all are kept.
        self._last_own = self._ahead = 0
        self._taken_at: int | None = None
        self._chosen: set[int] = set()
        self._is_watching = self._layers_are_known = False
        self._feed = backend.Feed()
        self._waiting: collections.deque = collections.deque()
        self._data = backend.FitData()
        # Examples of the epoch that ends, where they are counted.
        self._examples_in_loss: int | None = None
        self._rows_vary = False
        self._is_first_epoch_of_fit = False
        self._summaries = None
        self._step_written = 0

    # Keras and the script may copy a callback in the middle of a fit.
    def __getstate__(self):
        self._fetch()
        state = self.__dict__.copy()
        for name in ("_model", "_program", "_observations", "_summaries"):
            state[name] = None
        for name in ("_model_seen", "_function_seen", "_optimizer_seen"):
            state[name] = None
        return state

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        if self._model_seen is not None and model is not self._model_seen:
            self._fetch()
            self._forget_model()
            self._start_anew()
        # Keras's own property writes the state back on some backends.
        self._model_seen = model
        if isinstance(model, SVAGModel) and model.compiled:
            # Before `fit` makes the training step.
            self._observations = model.observe(self.per_layer)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._data = backend.data_of_fit()
        self._check_model()
        if self._writes_events:
            check_writable(self.log_dir)
        self._settle_num_examples()
        self._is_first_epoch_of_fit = True

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        self._drop_what_is_trained_anew()
        number = self._epochs_of_earlier_fits + epoch + 1
        if self._is_first_epoch_of_fit and number <= self._epoch:
            self._epochs_of_earlier_fits += self._epoch + 1 - number
            number = self._epoch + 1
        self._is_first_epoch_of_fit = False
        self._epoch = number
        self._taken_at = None
        lost = self._series.lost_epochs
        lost -= {epoch for epoch in lost if epoch >= number}
        self._examples_in_loss = None

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        # Not at a batch's end: Keras would then wait for the logs of each.
        self._begin_call(self._steps_before_epoch + batch)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        # Within `fit`, at an epoch's end; then Keras counts anew.
        self._count_examples()

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        self._fetch()
        steps, is_stopped = (
            self.params.get("steps"),
            self._model_seen.stop_training,
        )
        begun = self._steps - self._steps_before_epoch
        done = begun + self._model_seen.steps_per_execution
        if steps is None:
            # Without a stop, the last call that began met the end of the data.
            steps = done if is_stopped else begun
        elif is_stopped:
            steps = min(steps, done)
        if not is_stopped:
            self._note_examples(steps)
        self._settle_num_examples()
        self._note_loss(logs)
        self._steps_before_epoch += steps
        self._steps = self._steps_before_epoch
        if logs is not None:
            logs.update(self._logs())
        self._write(is_epoch=True)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._fetch()
        self._taken_at = None
        self._write_end()
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
        self._taken_at = None
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
        rows = self._series["rows"]
        if not len(rows):
            return None
        return max(round(self._updates_per_batch * float(np.max(rows))), 1)

    @property
    def _updates_per_batch(self):
        """B over the rows of a batch as it is fed."""
        model = self._model_seen
        optimizer = backend.without_loss_scale(
            getattr(model, "optimizer", None)
        )
        if not isinstance(optimizer, PairedOptimizer):
            return backend.accumulated_batches(optimizer)
        factor = 1 if optimizer.pairing == "independent" else 2
        return factor / 2 if isinstance(model, SVAGModel) else factor

    @property
    def _has_norm(self):
        """Whether the noise is measured in the norm of the optimizer too."""
        return backend.has_second_moments(
            getattr(self._model_seen, "optimizer", None)
        )

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
        norms = last["weight_sq_norm"]
        logs = {
            "grad_sq_norm": estimate.grad_sq_norm,
            "noise_trace": estimate.noise_trace,
            "noise_to_signal": estimate.noise_to_signal,
            "noise_scale": estimate.noise_scale,
            "weight_sq_norm": float(np.mean(norms)) if len(norms) else None,
        }
        if self._has_norm:
            logs["preconditioned_noise_to_signal"] = last.estimate(
                self.batch_size, preconditioned=True
            ).noise_to_signal
        return {k: math.nan if v is None else v for k, v in logs.items()}

    def _check_model(self):
        """Refuses, before the first step, what cannot be measured."""
        model, is_own = self._model_seen, self._observations is not None
        if model.built and not model.trainable_variables:
            raise ValueError(
                f"The model {model.name!r} has no trainable weights, so there "
                "is no gradient whose noise could be measured; make a layer "
                "trainable."
            )
        if is_own:
            return
        if not backend.overrides(model, "call"):
            raise ValueError(
                f"{type(self).__name__} computes the loss from `model(x)`, and "
                f"{type(model).__name__} has no `call`; give it one, and its "
                "loss as `loss`, or leave the callback out where several "
                "losses are trained in turn, as in a GAN."
            )
        if (
            self.loss is None
            and backend.has_own_step(model)
            and not backend.overrides(model, "compute_loss")
            and model.loss is None
        ):
            raise ValueError(
                f"{type(self).__name__} does not know the loss of "
                f"{type(model).__name__}, whose own `train_step` computes it; "
                "give it as `loss`, a function of (y, y_pred), or of (x, "
                "y_pred) where the data have no targets y, or compute it in "
                "the model's `compute_loss`."
            )
        if backend.has_fixed_batch_size(model):
            raise ValueError(
                f"{type(self).__name__} halves every batch, and the model "
                f"{model.name!r} takes batches of one size only: "
                f"{backend.CANNOT_HALVE}"
            )
        if self._data.batch_size == 1:
            raise ValueError(
                f"{type(self).__name__} halves every batch, and those of this "
                f"fit have one row: {backend.CANNOT_HALVE}"
            )

    def _settle_num_examples(self):
        """Notes how the batches are drawn, as far as it is known by now."""
        given, data = self.num_examples, self._data
        known = data.examples
        if given is None:
            self._series.sampling = "independent"
            return
        if given != "auto":
            if known not in (None, given):
                raise ValueError(
                    arguments.refusal(
                        "num_examples",
                        f"{known:,}, the examples that fit runs through",
                        given,
                        "leave it out",
                    )
                )
            known = given
        elif data.batches is None:
            # Each epoch may draw other examples.
            known = None
        elif known is None and len(self._series):
            # All but the last batch are sure to have as many rows.
            known = data.batches * int(np.max(self._series["rows"]))
        self._series.sampling = "shuffle" if known else None
        self._series.num_examples = known

    def _count_examples(self):
        """Notes how many examples the epoch had, as Keras counts them."""
        model, data = self._model_seen, self._data
        is_open = data.is_whole and data.examples is None
        if is_open and self._examples_in_loss is None:
            if backend.is_one_process(model):
                self._examples_in_loss = backend.examples_in_loss(model)

    def _note_examples(self, steps):
        """Takes the examples of an epoch of so many steps as those of all."""
        self._count_examples()
        count, rows = self._examples_in_loss, self._series.largest_rows
        # Else batches differ, or Keras has counted those of an evaluation.
        if count and rows and (steps - 1) * rows < count <= steps * rows:
            self._data = self._data._replace(examples=count)

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
            self._steps_before_epoch = self._block_end = self._steps
            self._epoch = 0
            self._series = self._series[: settled + first]

    def _begin_call(self, step):
        """Has the call that begins measured, if that is its turn."""
        model, self._steps = self._model_seen, step
        steps = model.steps_per_execution
        self._write()
        if step + steps > self._block_end:
            # Whole calls, so that an epoch may end within one.
            length = max(self._steps_of_block(step) // steps, 1) * steps
            self._block_end = step + length
            self._due = step + int(self._random.integers(length))
        is_due = step <= self._due < step + steps
        function = backend.innermost(model.train_function)
        if function is None:
            # In a loop of the script's own, `train_on_batch` makes it later.
            return
        is_new = function is not self._function_seen
        self._function_seen = function
        if is_new:
            # Another loss, or other weights, may be trained from now on.
            self._program, self._layers_are_known = None, False
        if self._observations is not None:
            if is_due and not is_new:
                self._look_at_own_batch()
            if is_due:
                self._chosen.add(self._due + 1)
            taken_at, room = self._taken_at, self._observations.room
            if taken_at is None or step + steps - taken_at > room:
                self._take_own(step)
                self._fetch(keep=1)
        elif is_new:
            # It gets its trace from `fit`, and not from a batch of ours.
            backend.FirstCall(model, self._feed, self._note_rows)
            self._due = max(self._due, step + steps)
        elif is_due:
            backend.Beside(
                model,
                self._feed,
                self._choose,
                self._observe,
                self._is_watching,
            )

    def _note_rows(self, vary):
        self._rows_vary = vary

    def _steps_of_block(self, done):
        if self.every is not None:
            return self.every
        if self._observations is not None:
            return 1
        return min(max(_FIRST_BLOCK, done // _BLOCKS_IN_RUN), _LONGEST_BLOCK)

    def _choose(self, count):
        return int(self._random.integers(count)) if count > 1 else 0

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
        if self._look_is_due:
            self._look_at_batch(batch)
        try:
            values = self._program.moments(batch)
        except Exception as error:
            if not backend.is_one_process(self._model_seen):
                # Perhaps another worker is gone.
                raise
            self._refuse_half(error)
            return
        self._wait(self._steps + place + 1, values, self._program.layers)

    def _refuse_half(self, error):
        """Ends training at the first half that fails, and later only warns."""
        why = " ".join(_STYLE.sub(" ", str(error)).split())
        sentence = (
            f"{type(self).__name__} cannot compute the loss of half a batch "
            f"from `model(x)` of {self._model_seen.name!r} "
            f"({type(error).__name__}: {why:.300}); where a `train_step` "
            "computes it otherwise, do so in the model's `compute_loss`, and "
            f"where it is that of whole batches only, {backend.CANNOT_HALVE}"
        )
        if not len(self.series):
            raise ValueError(sentence) from error
        # Other batches could be halved, and training shall not end.
        warnings.warn(sentence, stacklevel=2)

    def _make_program(self):
        if self._program is None:
            self._program = backend.PairProgram(
                self._model_seen,
                self.loss,
                self.per_layer,
                keeps_generators=not self._data.is_read_in_python,
                rows_vary=self._rows_vary,
            )

    def _look_at_own_batch(self):
        """Has a batch of an `SVAGModel` looked at before it trains on it."""
        if self._look_is_due:
            backend.Beside(
                self._model_seen,
                self._feed,
                self._choose,
                lambda batch, _: self._look_at_batch(batch),
                self._is_watching,
            )

    @property
    def _look_is_due(self):
        return self._steps >= self._next_look

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
        self._waiting.append((self._steps, self._epoch, losses, None, ()))

    @property
    def _pairs_are_batches(self):
        """Whether the halves are batches of the SGD that is simulated."""
        if self._observations is None:
            return False
        optimizer = self._model_seen.optimizer
        return backend.without_loss_scale(optimizer).pairing == "independent"

    def _take_own(self, step=None):
        """Takes the rows of an `SVAGModel`, lest later ones replace them.

        Args:
            step: How many steps are done, None where that is not known.
        """
        own = self._observations
        begun = self._steps + self._model_seen.steps_per_execution
        place = step, begun, self._taken_at is None
        self._waiting.append((place, self._epoch, own.last(), own, own.layers))
        if step is not None:
            self._taken_at = step

    def _wait(self, step, values, layers):
        self._waiting.append((step, self._epoch, values, None, layers))
        self._fetch(keep=_WAITING)

    def _fetch(self, keep=0):
        """Appends to the series what has waited on the device."""
        if not keep and self._taken_at is not None:
            self._take_own()
        while len(self._waiting) > keep:
            step, epoch, values, own, layers = self._waiting.popleft()
            values = backend.fetched(values)
            if own is not None:
                self._append_own(*step, epoch, *values, own, layers)
            elif "whole" in values:
                whole, mean = float(values["whole"]), float(values["mean"])
                if not (math.isfinite(whole) and math.isfinite(mean)):
                    self._series.lost_epochs.add(epoch)
                    continue
                size = max(abs(whole), abs(mean)) or 1.0
                difference = abs(whole - mean) / size
                if difference < _ROUNDING:
                    # The last bits are the program's, made anew on resuming.
                    difference = 0.0
                self._series.couplings.append((step, difference))
            else:
                self._append(step, epoch, values, layers)

    def _append_own(
        self, done, begun, is_first, epoch, count, rows, own, layers
    ):
        """Appends the rows of an `SVAGModel` that are new.

        Args:
            done: Steps done when they were taken, None if not known.
            begun: Those that had begun at most.
            is_first: Whether earlier steps were not watched.
            count: Steps that the model had counted.
        """
        if done is not None:
            self._ahead = done - int(count)
        earlier, self._last_own = self._last_own, int(count)
        for row in () if is_first else rows:
            step = self._ahead + int(row[0])
            is_new = row[0] > earlier and step <= begun
            if is_new and (self.every in (None, 1) or step in self._chosen):
                self._append(step, epoch, own.unpacked(row), layers)
        self._chosen = {
            step for step in self._chosen if step > self._ahead + count
        }

    def _append(self, step, epoch, values, layers):
        model, codes = self._model_seen, self._series.codes
        if not self._layers_are_known:
            # Of this train function: a layer may be frozen at first.
            self._layers_are_known = True
            is_normalized = backend.has_batch_normalization(model)
            if is_normalized and not self._pairs_are_batches:
                codes.add("batch_normalization")
            if self._observations is None and backend.has_own_step(model):
                codes.add("own_train_step")
        if self._program is not None and self._program.is_masked:
            codes.add("masked_loss")
        moments = values.pop("layers", ())
        if not self.per_layer:
            moments = layers = ()
        self._series.append(
            step=step,
            epoch=epoch,
            layer_moments=dict(zip(layers, moments, strict=True)),
            **{name: float(value) for name, value in values.items()},
        )

    def _write(self, is_epoch=False):
        """Writes a point for TensorBoard, if it is time for one."""
        in_steps = self.update_freq != "epoch"
        if not self._writes_events:
            return
        if in_steps and not is_epoch:
            if self._steps - self._step_written < self.update_freq:
                return
            self._fetch()
        elif not (is_epoch or in_steps):
            return
        if len(self._series):
            self._step_written = self._steps
            self._write_point(self._steps if in_steps else self._epoch)

    @property
    def _writes_events(self):
        return self.log_dir is not None and backend.writes_files(
            self._model_seen
        )

    def _write_point(self, place):
        self._summaries_of_run().write_estimate(self.estimate(), place)

    def _summaries_of_run(self):
        if self._summaries is None:
            self._summaries = NoiseSummaries(self.log_dir)
        return self._summaries

    def _write_end(self):
        """Writes what there is to say at the end of training."""

    def state_dict(self) -> dict[str, Any]:
        """What the callback has seen, as plain values for strict JSON."""
        self._fetch()
        return {
            "series": self._series.to_dict(),
            "steps": self._steps,
            "steps_before_epoch": self._steps_before_epoch,
            "settled": self._settled,
            "epoch": self._epoch,
            "epochs_of_earlier_fits": self._epochs_of_earlier_fits,
            "block": [self._block_end, self._due],
            "next_look": self._next_look,
            "generator": self._random.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` returned.

        Raises:
            ValueError: If `state` is damaged.
        """
        try:
            series = NoiseSeries.from_dict(state["series"])
            generator = np.random.default_rng()
            generator.bit_generator.state = state["generator"]
            numbers = {
                name: arguments.integer(name, state[name], least=0)
                for name in (
                    "steps",
                    "steps_before_epoch",
                    "settled",
                    "epoch",
                    "epochs_of_earlier_fits",
                    "next_look",
                )
            }
            block_end, due = (
                arguments.integer("block", number, least=0)
                for number in state["block"]
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                "`state` must be what `state_dict` returned, got "
                f"{state!r:.200}."
            ) from error
        self._series, self._random = series, generator
        self._block_end, self._due = block_end, due
        for name, number in numbers.items():
            setattr(self, f"_{name}", number)
        self._optimizer_seen = None
