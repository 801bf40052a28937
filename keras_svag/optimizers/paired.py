"""What the optimizers that step once per pair of gradients share."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import keras
from keras import ops

from keras_svag import arguments

# A hash of a step: primes, and by what the step is multiplied modulo each. All
# products are below 2**31, for JAX counts in int32.
_HASH = ((32749, 32717), (17011, 12289))

# In a regular expression; none is in a variable's path.
_SPECIAL = frozenset("^$*+?[]{}()|\\")

PAIRINGS = ("independent", "halves")

Pairing: TypeAlias = Literal["independent", "halves"]
LearningRate: TypeAlias = (
    float
    | keras.optimizers.schedules.LearningRateSchedule
    | Callable[[], float]
)


def svag_weights(
    ell: int, pairing: Pairing = "independent"
) -> tuple[float, float]:
    """Weights that mix the gradients of two sub-batches into one SVAG step.

    The two weights sum to 1, so that the mean of the mixed gradient is the
    loss gradient, and its covariance is `ell` times that of SGD's gradient at
    the simulated batch size B:

    - `"independent"`: sub-batches of size B, `(1 ± sqrt(2 ell - 1)) / 2`;
    - `"halves"`: sub-batches of size B/2, `(1 ± sqrt(ell - 1)) / 2`.

    Args:
        ell: integer >= 1, the amplification. 1 is SGD.
        pairing: `"independent"` or `"halves"`.

    Returns:
        `(w1, w2)`, floats.

    Raises:
        TypeError: if `ell` is no number.
        ValueError: if `ell` or `pairing` is not one of the above.

    References:
        `"independent"`: Li, Malladi, Arora, "On the Validity of Modeling SGD
        with Stochastic Differential Equations (SDEs)", NeurIPS 2021,
        arXiv:2102.12470. `"halves"`: derived, from
        w1 + w2 = 1 and 2 (w1² + w2²) = ell.
    """
    ell = arguments.integer("ell", ell)
    arguments.choice("pairing", pairing, PAIRINGS)
    spread = math.sqrt(2 * ell - 1 if pairing == "independent" else ell - 1)
    return (1 + spread) / 2, (1 - spread) / 2


class PairedOptimizer(keras.optimizers.Optimizer):
    """Simulates an optimizer's SDE: one step for each pair of gradients.

    A pair is mixed by `svag_weights`, so that its mean is the loss gradient and
    its covariance `ell` times that of a batch; a subclass says what step is
    made of it. In each step either of the two may get w1. All hyperparameters
    are those of the simulated optimizer, one step of which takes `ell` of
    these.

    On a plain model each pair is two consecutive batches: the first one's
    gradient is kept, the second one completes the step. A wrapper that has
    both gradients in one step calls `pair_within_step`, and nothing is kept.

    A subclass defines `_step`, `_time_of_step` and what it refuses; variables
    of its own it adds after `build`.
    """

    # What a subclass cannot honour besides, and why.
    _refused: dict[str, str] = {}

    def __init__(
        self,
        learning_rate: LearningRate,
        ell: int,
        pairing: Pairing,
        weight_decay: float | None,
        name: str,
        **kwargs: Any,
    ) -> None:
        self._refuse_unsupported(kwargs)
        excluded = kwargs.pop("excluded_from_weight_decay", None)
        weights = svag_weights(ell, pairing)
        if weight_decay is not None:
            weight_decay = float(
                arguments.number("weight_decay", weight_decay, least=0)
            )
        super().__init__(
            learning_rate=_checked_learning_rate(learning_rate),
            weight_decay=weight_decay,
            name=name,
            **kwargs,
        )
        self.ell = int(ell)
        self.pairing = pairing
        self.gradient_weights = weights
        self.continuous_time = self.add_variable(
            shape=(),
            dtype=WIDEST,
            aggregation="only_first_replica",
            name="continuous_time",
        )
        self._excluded = excluded or {"paths": [], "names": [], "mask": []}
        self._pairs_within_step = False
        self._given_mixed_gradients = False

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        is_replicated = _replicated(self._iterations)
        if any(_replicated(v) != is_replicated for v in variables):
            raise ValueError(
                f"The optimizer {self.name!r} was not created under the "
                "distribution strategy of the variables, so its counters would "
                f"be wrong; create {self._kind}(...) inside "
                "`with strategy.scope():`, as the model."
            )
        super().build(variables)
        mask = self._excluded_from_weight_decay(variables)
        super().exclude_from_weight_decay(
            [v for v, excluded in zip(variables, mask, strict=True) if excluded]
        )
        if self._pairs_within_step:
            return
        (self._first_gradients,) = self._add_like(variables, "first_gradient")
        if self.trains_on_first:
            warnings.warn(
                "With ell=1 and pairing='independent' the second batch of each "
                "pair has weight 0: a plain model ignores every second batch; "
                "pairing='halves' uses both.",
                stacklevel=2,
            )

    def _add_like(self, variables, *names):
        """For each name a list of optimizer variables like those of a model."""
        added = [
            [self.add_variable_from_reference(v, name=name) for name in names]
            for v in variables
        ]
        return [[of_one[i] for of_one in added] for i in range(len(names))]

    def pair_within_step(self) -> None:
        """Takes gradients that are mixed already: no pending gradient is kept.

        Called by a wrapper that computes both gradients of a pair within one
        step, before it builds the optimizer.

        Raises:
            ValueError: if the optimizer was built for pairing batches.
        """
        if self.built and not self._pairs_within_step:
            raise ValueError(
                f"The optimizer {self.name!r} already trains a plain model by "
                "pairing its batches and cannot serve an SVAGModel too; give "
                f"each model its own {self._kind}(...)."
            )
        self._pairs_within_step = True

    @contextlib.contextmanager
    def mixed_gradients(self) -> Iterator[None]:
        """Context in which `apply` is given gradients that are mixed."""
        self._given_mixed_gradients = True
        try:
            yield
        finally:
            self._given_mixed_gradients = False

    @property
    def trains_on_first(self) -> bool:
        """Whether it is SGD on the first of a pair; no other one is read."""
        return self.ell == 1 and self.pairing == "independent"

    def mix(self, first: Any, second: Any) -> Any:
        """The gradients of a pair, one times w1 and the other times w2.

        A hash of the step says which: where the rows come in one order in all
        epochs, none of them has the same weight every time.
        """
        return self.mixer()(first, second)

    def mixer(self) -> Callable[[Any, Any], Any]:
        """A function that mixes the pair of one variable, in this step.

        The step is hashed once for all variables.
        """
        if self.trains_on_first:
            return lambda first, second: first
        w1, w2 = self.gradient_weights
        sign = random_sign(self._steps())

        def mix(first, second):
            spread = ops.cast(sign, first.dtype) * (w1 - w2)
            return ops.add(
                ops.multiply(first, (1 + spread) / 2),
                ops.multiply(second, (1 - spread) / 2),
            )

        return mix

    def apply(
        self,
        grads: Iterable[Any],
        trainable_variables: Sequence[keras.Variable] | None = None,
    ) -> None:
        if self._pairs_within_step and not self._given_mixed_gradients:
            raise ValueError(
                f"The optimizer {self.name!r} belongs to an SVAGModel and "
                "cannot train a plain model too; give each model its own "
                f"{self._kind}(...)."
            )
        grads = list(grads)
        elapsed = ops.where(
            self._completes_pair(),
            self._time_of_step(ops.cast(self.learning_rate, WIDEST)),
            ops.zeros((), WIDEST),
        )
        super().apply(grads, trainable_variables)
        if grads:
            self.continuous_time.assign_add(elapsed)

    def update_step(
        self, gradient: Any, variable: Any, learning_rate: Any
    ) -> None:
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        if self._pairs_within_step:
            step, state = self._decayed_step(gradient, variable, learning_rate)
        else:
            gradient = dense(gradient, variable)
            kept = self._first_gradients[self._get_variable_index(variable)]
            first = ops.convert_to_tensor(kept)
            mixed = self.mix(first, gradient)
            # Branch-free: a collective inside a branch fails when replicated.
            completes_pair = self._completes_pair()
            step, state = self._decayed_step(mixed, variable, learning_rate)
            step = ops.where(completes_pair, step, ops.zeros_like(gradient))
            state = [
                (
                    old,
                    ops.where(completes_pair, new, ops.convert_to_tensor(old)),
                )
                for old, new in state
            ]
            self.assign(kept, gradient)
        for moment, value in state:
            self.assign(moment, value)
        self.assign_sub(variable, step)

    def _decayed_step(self, mixed, variable, learning_rate):
        step, state = self._step(mixed, variable, learning_rate)
        if self.weight_decay and self._use_weight_decay(variable):
            decay = ops.multiply(learning_rate / self.ell, self.weight_decay)
            step = ops.add(step, ops.multiply(variable, decay))
        return step, state

    def _step(self, mixed, variable, learning_rate):
        """The step that a pair makes, and what it makes of the optimizer.

        Args:
            mixed: the mixed gradient, in the variable's dtype; sparse, if the
                gradients are and the pair is made within a step.
            variable: what is trained.
            learning_rate: the simulated optimizer's, in the variable's dtype.

        Returns:
            `(step, state)`: what is taken from the variable, weight decay
            apart; pairs of one of the optimizer's variables and its new value.
        """
        raise NotImplementedError

    def _time_of_step(self, learning_rate):
        """Time of the SDE that a step takes."""
        raise NotImplementedError

    def _apply_weight_decay(self, variables):
        # Keras would decay at every batch, by learning_rate and not by
        # learning_rate / ell: `update_step` does it.
        pass

    def exclude_from_weight_decay(
        self,
        var_list: Iterable[keras.Variable] | None = None,
        var_names: Iterable[str] | None = None,
    ) -> None:
        """Excludes variables from weight decay; saved with the optimizer.

        Args:
            var_list: variables to exclude.
            var_names: strings: a variable whose path contains one of them is
                excluded. They are no regular expressions, as Keras takes them:
                one that a file brings could take for ever.

        Raises:
            TypeError: if `var_names` are no strings.
            ValueError: if the optimizer is built, or a name is a regular
                expression.
        """
        if self.built:
            raise ValueError(
                "`exclude_from_weight_decay` was called on an optimizer that "
                "is built already; call it before `fit` and before "
                "`optimizer.build`."
            )
        wanted = "a list of strings"
        if isinstance(var_names, str):
            raise TypeError(arguments.refusal("var_names", wanted, var_names))
        names = list(var_names or ())
        for name in names:
            arguments.instance("var_names", name, str, wanted)
            if not _SPECIAL.isdisjoint(name):
                raise ValueError(
                    arguments.refusal(
                        "var_names",
                        "parts of paths, not regular expressions",
                        name,
                    )
                )
        self._excluded = {
            "paths": sorted(_path(v) for v in var_list or ()),
            "names": sorted(names),
            "mask": [],
        }

    def _excluded_from_weight_decay(self, variables):
        """Whether each variable is excluded: a list of booleans, once built."""
        names, paths = self._excluded["names"], self._excluded["paths"]
        # Loading a model can rename its variables, but keeps their order.
        if len(self._excluded["mask"]) != len(variables):
            self._excluded["mask"] = [
                path in paths or any(name in path for name in names)
                for path in map(_path, variables)
            ]
        return self._excluded["mask"]

    @property
    def learning_rate(self) -> Any:
        return self._get_current_learning_rate()

    @learning_rate.setter
    def learning_rate(self, learning_rate: LearningRate) -> None:
        # `fset` is how a setter calls the one that it overrides.
        keras.optimizers.Optimizer.learning_rate.fset(
            self, _checked_learning_rate(learning_rate)
        )

    def _get_current_learning_rate(self):
        schedule = self._learning_rate
        if isinstance(
            schedule, keras.optimizers.schedules.LearningRateSchedule
        ):
            return schedule(ops.floor_divide(self._steps(), self.ell))
        return super()._get_current_learning_rate()

    @property
    def effective_iterations(self) -> float:
        return float(ops.convert_to_numpy(self._steps())) / self.ell

    def _steps(self):
        if self._pairs_within_step:
            return self._iterations
        return ops.floor_divide(self._iterations, 2)

    def _completes_pair(self):
        if self._pairs_within_step:
            return True
        return ops.equal(ops.mod(self._iterations, 2), 1)

    @property
    def _kind(self):
        return type(self).__name__

    def _refuse_unsupported(self, kwargs):
        """Takes what cannot be honoured out of an optimizer's arguments."""
        for name, reason in {**self._refused, **_REFUSED}.items():
            value = kwargs.pop(name, None)
            if value is not None and value is not False:
                raise ValueError(
                    arguments.refusal(
                        name, f"left out of {self._kind}", value, reason
                    )
                )

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update({"ell": self.ell, "pairing": self.pairing})
        if self._excluded["paths"] or self._excluded["names"]:
            config["excluded_from_weight_decay"] = {
                key: list(values) for key, values in self._excluded.items()
            }
        return config


def random_sign(step: Any) -> Any:
    """1 or -1 by a hash of a step: as often, whatever part of the steps.

    Args:
        step: Tensor of integers >= 0.
    """
    primes, factors = ops.unstack(ops.convert_to_tensor(_HASH, "int32"))
    step = ops.expand_dims(ops.cast(step, "int32"), -1)
    x = ops.mod(ops.mod(step, primes) * factors, primes)
    cubes = ops.mod(ops.mod(x * x, primes) * x, primes)
    return 1 - 2 * ops.mod(ops.sum(cubes, axis=-1), 2)


def _replicated(variable):
    return hasattr(getattr(variable, "value", None), "distribute_strategy")


def _path(variable):
    return getattr(variable, "path", variable.name)


def dense(gradient, variable):
    """The gradient as a tensor of the variable's shape.

    Assigned as it is, a sparse gradient would be scattered.
    """
    if hasattr(gradient, "dense_shape"):
        return ops.add(ops.zeros_like(variable), gradient)
    return gradient


# JAX has no float64 unless it is told to have it.
WIDEST = "float32" if keras.backend.backend() == "jax" else "float64"
_CLIPPING = (
    "clipping the mixed gradient biases the SDE, and clipping its parts apart "
    "is not the clipping of a batch"
)
_REFUSED = {
    "clipnorm": _CLIPPING,
    "clipvalue": _CLIPPING,
    "global_clipnorm": _CLIPPING,
    "use_ema": "Keras moves the average at every batch, SVAG steps once per "
    "pair",
    "gradient_accumulation_steps": "SVAG mixes gradients by pairs, with "
    "weights of its own",
}


def _checked_learning_rate(learning_rate):
    """Keras's kinds of learning rates as they are, a number as a float."""
    if callable(learning_rate) or isinstance(learning_rate, dict):
        return learning_rate
    if ops.is_tensor(learning_rate) or isinstance(
        learning_rate, keras.Variable
    ):
        learning_rate = float(learning_rate)
    return float(arguments.number("learning_rate", learning_rate, least=0))
