"""Tries another batch size by short trainings from where the model is."""

import contextlib
import itertools
import math
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from keras_svag import arguments, backend
from keras_svag.branching.result import BranchTest
from keras_svag.noise.ratio import fieller_interval, student_t_quantile
from keras_svag.probe.measurement import check_targets, measure_gradient_noise
from keras_svag.scaling.conditions import conditions_of
from keras_svag.scaling.optimizers import kind_of
from keras_svag.scaling.rules import scaled_batch_size
from keras_svag.scaling.scaled_optimizer import rescale, scale_optimizer

# The held examples are looked at in so many parts, for the error of the loss.
_PARTS = 16
# Of arrays without validation data, the share that is held.
_HELD = 0.2
# What `fit` and `evaluate` set of a model.
_OF_FIT = ("train_function", "test_function", "history", "stop_training")
_STATISTICS = ("weight_sq_norm", "grad_sq_norm", "example_noise")


def branch_test(
    model: keras.Model,
    data: Any,
    kappa: float,
    *,
    examples: int,
    batch_size: int = 32,
    validation_data: Any = None,
    rule: Literal["auto", "linear", "square_root"] = "auto",
    seeds: int = 3,
    tolerance: float = 0.01,
    level: float = 0.95,
    num_batches: int = 50,
    seed: int = 0,
    verbose: int | Literal["auto"] = "auto",
) -> BranchTest:
    """Trains on for a while at B and at κB, and says if the loss suffers.

    ```python
    test = keras_svag.branch_test(
        model, (x, y), 4, batch_size=64, examples=20_000,
        validation_data=(x_val, y_val),
    )
    print(test)
    ```

    Each of `seeds` pairs of trainings starts from the model as it is now, with
    its optimizer's state, and sees the same examples in the same order: once
    in batches of B, once of κB with the hyperparameters of the scaling rule
    (`scale_optimizer`). Then the loss is compared on held examples, and R, G
    and S. Everything is put back afterwards, to the bit, also when this is
    interrupted: weights, optimizer, metrics, random seeds; the next `fit` goes
    on as if nothing had been. Callbacks of a training, and what `call` keeps
    in attributes of Python objects, are not part of it.

    Args:
        model: A compiled `keras.Model`; B and its optimizer's hyperparameters
            belong together.
        data: Arrays, a tuple `(x, y)` or `(x, y, sample_weight)` of (nests of)
            these; or a function that makes a data set of batches of a given
            size, which `fit` can go through `examples` of.
        kappa: κ, above 0, such that κB is a whole number; below 1 for fewer
            examples a batch.
        examples: Examples of each training, at least a batch of the larger
            size; what is no whole batch is left out.
        batch_size: B, as in `fit`.
        validation_data: The held examples, like `data`, or a data set of
            batches. None: of arrays a fifth is drawn, on which no branch
            trains (the model may have done so before).
        rule: `"linear"`, `"square_root"`, or `"auto"`, which goes by the
            optimizer.
        seeds: Integer >= 2, pairs of trainings.
        tolerance: The share of the loss by which it may be higher.
        level: Level of the intervals.
        num_batches: Batches of B from which G and S are measured after each
            training.
        seed: Integer, the first of the seeds that draw the order of arrays.
        verbose: 0 (silent), 1 (a progress bar over the trainings) or
            `"auto"`, which is 1.

    Returns:
        A `BranchTest`; its `str` is the answer, its `verdict` `"within
        tolerance"`, `"worse"` or `"not told apart"`.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If one is out of range, κB is no whole number, the rule is
            not for the optimizer, or the data are too few.
    """
    backend.check_model(model)
    if not model.compiled:
        raise ValueError(
            "`model` must be compiled, with the optimizer that trains at "
            "`batch_size`; call model.compile."
        )
    sizes = batch_size, scaled_batch_size(kappa, batch_size)
    arguments.integer("examples", examples, least=max(sizes))
    arguments.integer("seeds", seeds, least=2)
    arguments.number("tolerance", tolerance, least=0)
    arguments.number("level", level, above=0, below=1)
    arguments.integer("num_batches", num_batches, least=4)
    arguments.integer("seed", seed, least=0)
    arguments.choice("verbose", verbose, ("auto", 0, 1))
    optimizer = backend.without_loss_scale(model.optimizer)
    # What the rule refuses, it refuses here.
    scale_optimizer(optimizer, kappa, rule)
    conditions = conditions_of(optimizer, rule)
    source_of = _Function if callable(data) else _Arrays
    source = source_of(data, validation_data, sizes, examples, seed)
    first = source.first()
    check_targets(model, first)
    check_targets(model, source.held[0], name="validation_data")
    backend.build_training(model, first)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    bar = keras.utils.Progbar(
        2 * seeds, verbose=0 if verbose == 0 else 1, unit_name="training"
    )
    functions = {1: model.train_function}
    losses = np.empty((seeds, 2, len(source.held)))
    moments = np.empty((seeds, 2, len(_STATISTICS)))
    with _branch(model, 1, rule, 0, functions):
        before = np.mean(_losses(model, source.held))
    for index, place in itertools.product(range(seeds), (0, 1)):
        with _branch(model, (1, kappa)[place], rule, index, functions):
            size, steps = sizes[place], _Steps()
            given = source.of(index, size)
            model.fit(**given, shuffle=False, verbose=0, callbacks=[steps])
            if steps.done < examples // size:
                raise arguments.wrong(
                    "data",
                    f"a function whose data sets have {examples:,} examples",
                    f"one of {steps.done:,} batches of {size:,}",
                    "repeat them",
                )
            losses[index, place] = _losses(model, source.held)
            moments[index, place] = _moments(
                model, source, num_batches, seed + index
            )
        bar.add(1)
    return BranchTest(
        kappa=kappa,
        batch_size=batch_size,
        examples=examples,
        seeds=seeds,
        rule=conditions.rule,
        hyperparameters=conditions.scaled(kappa) or {},
        loss_before=float(before),
        loss=float(losses[:, 0].mean()),
        difference=_difference(losses[:, 1] - losses[:, 0], level),
        ratios={
            name: _ratio(moments[:, 0, place], moments[:, 1, place], level)
            for place, name in enumerate(_STATISTICS)
        },
        tolerance=tolerance,
        level=level,
    )


class _Steps(keras.callbacks.Callback):
    """Counts the steps of a training: Keras goes on where data have ended."""

    done = 0

    def on_train_batch_end(self, batch, logs=None):
        self.done = batch + 1


@contextlib.contextmanager
def _branch(model, kappa, rule, index, functions):
    """A training at κB, after which the model is what it was before.

    Args:
        index: Index of the seed.
        functions: `{κ: train function}`, to which it adds its own.
    """
    put_back = contextlib.ExitStack()
    optimizer = backend.without_loss_scale(model.optimizer)
    scaled = *kind_of(optimizer).hyperparameters, "weight_decay", "warmup_steps"
    for owner, names in (
        (model, _OF_FIT),
        # Few of them have a warm-up.
        (optimizer, [name for name in scaled if hasattr(optimizer, name)]),
    ):
        for name in names:
            put_back.callback(setattr, owner, name, getattr(owner, name, None))
    schedule = backend.learning_rate_schedule(optimizer)
    if schedule is not None:
        put_back.callback(setattr, optimizer, "learning_rate", schedule)
    with (
        backend.python_state_kept(model, keeps_generators=True),
        backend.preserved_state(model, trains=True),
        put_back,
    ):
        for state in backend.seeds_of(model):
            # Other masks of dropout with each seed.
            state.assign(state + ops.cast([index, 0], state.dtype))
        if kappa != 1:
            rescale(optimizer, kappa, rule)
        model.train_function = functions.get(kappa)
        yield
        functions[kappa] = model.train_function


def _losses(model, batches):
    """The loss of each part of the held examples, as `evaluate` has it."""
    losses = []
    for batch in batches:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        model.reset_metrics()
        logs = model.test_on_batch(x, y, weight, return_dict=True)
        losses.append(float(logs["loss"]))
    return losses


def _moments(model, source, num_batches, seed):
    """R, G and S at the weights that a model has."""
    weights = backend.decayed_variables(model) or model.trainable_variables
    squares = (np.square(ops.convert_to_numpy(v)).sum() for v in weights)
    noise = measure_gradient_noise(
        model, *source.probed(), num_batches, seed=seed, verbose=0
    )
    return float(sum(squares)), noise.grad_sq_norm, noise.example_noise


def _difference(differences, level):
    """Mean of differences (seeds, parts of the held examples), and interval.

    Losses that are not finite are infinitely far from others.
    """
    if not np.isfinite(differences).all():
        return math.nan, math.inf, math.inf
    # Each standard error with its own quantile: with few seeds the degrees of
    # freedom of their sum are not known.
    halves = [
        student_t_quantile(level, max(count - 1, 1))
        * math.sqrt(differences.mean(axis=1 - axis).var(ddof=1) / count)
        for axis, count in enumerate(differences.shape)
        if count > 1
    ]
    mean, half = float(differences.mean()), math.hypot(*halves)
    return mean, mean - half, mean + half


def _ratio(ours, theirs, level):
    """Ratio of the means over pairs of seeds, with its interval."""
    means = float(ours.mean()), float(theirs.mean())
    covariance = np.cov(ours, theirs) / len(ours)
    quantile = student_t_quantile(1 - (1 - level) / 3, len(ours) - 1)
    ratio = means[1] / means[0] if min(means) > 0 else math.nan
    return ratio, *fieller_interval(means, covariance, quantile)


class _Arrays:
    """Orders of the rows of arrays, and some of them held."""

    def __init__(self, data, validation_data, sizes, examples, seed):
        self._rows = backend.ArrayRows(data)
        self._sizes, self._examples, self._seed = sizes, examples, seed
        order = np.random.default_rng(seed).permutation(self._rows.num_rows)
        count = int(_HELD * len(order)) if validation_data is None else 0
        self._trained = order[count:]
        if validation_data is not None:
            self.held = _held_batches(validation_data)
        elif count < 2 or len(self._trained) < max(sizes):
            raise arguments.wrong(
                "data",
                "of enough rows for a batch and the held ones",
                f"{self._rows.num_rows} rows",
                "give `validation_data`",
            )
        else:
            self.held = _parts_of(self._rows, order[:count])
        self._data = data

    def first(self):
        return self._rows.take(self._trained[: self._sizes[0]])

    def of(self, index, size):
        """Arguments of the `fit` of a pair of trainings."""
        rng = np.random.default_rng([self._seed, index])
        epochs = range(math.ceil(self._examples / len(self._trained)))
        rows = np.concatenate([rng.permutation(self._trained) for _ in epochs])
        taken = self._rows.take(rows[: self._examples // size * size])
        x, y, weight = keras.utils.unpack_x_y_sample_weight(taken)
        return {"x": x, "y": y, "sample_weight": weight, "batch_size": size}

    def probed(self):
        return self._data, self._sizes[0]


class _Function:
    """What a function makes for each batch size."""

    def __init__(self, make, validation_data, sizes, examples, seed):
        if validation_data is None:
            raise arguments.wrong(
                "validation_data",
                "the held examples, where `data` is a function",
                None,
            )
        self._make, self._examples, self._size = make, examples, sizes[0]
        self.held = _held_batches(validation_data)

    def first(self):
        return next(backend.batches_of(self._make(self._size)))

    def of(self, index, size):
        """Arguments of the `fit` of a pair of trainings."""
        steps = self._examples // size
        return {"x": self._make(size), "steps_per_epoch": steps}

    def probed(self):
        return self._make(self._size), None


def _held_batches(data):
    name = "validation_data"
    if not backend.are_arrays(data):
        batches = [*backend.batches_of(data, name)]
        if not batches:
            raise arguments.wrong(name, "of some batches", data)
        return batches
    rows = backend.ArrayRows(data, name)
    return _parts_of(rows, np.arange(rows.num_rows))


def _parts_of(rows, picked):
    parts = np.array_split(picked, min(_PARTS, len(picked)))
    return [rows.take(part) for part in parts]
