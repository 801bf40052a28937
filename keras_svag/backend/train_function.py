"""What takes the place of a model's train function for one call of it."""

import contextlib
import itertools


class Feed:
    """Gives a train function batches that were drawn from its data."""

    def __call__(self, batches, data):
        """The batches as the function takes them.

        Args:
            batches: List of them, drawn in their order.
            data: What they were drawn from.
        """
        return iter(batches)

    def with_rest(self, batches, data):
        """All batches of a call, followed by the rest of the data."""
        return self(batches, data)


class TrainFunction:
    """Stands in for a model's train function during one call of it.

    It puts back what it found first of all, so that nothing is left behind
    whatever happens in the call. In another `fit` than the one in which it was
    made it does nothing of its own.

    Args:
        model: The model whose train function it takes the place of.
        in_loop: Whether `train_on_batch` calls it.
    """

    def __init__(self, model, in_loop=False):
        self._model = model
        self._in_loop = in_loop
        self._is_over = False
        self._fit = getattr(model, "history", None)
        self.found = model.train_function
        model.train_function = self

    def __call__(self, *arguments):
        model = self._model
        if model.train_function is self:
            # No other one either, which an exception may keep from its call.
            model.train_function = innermost(self)
        if (
            self._is_over
            or getattr(model, "history", None) is not self._fit
            or self._is_of_another_loop(arguments[-1])
        ):
            return self.found(*arguments)
        self._is_over = True
        return self._call(*arguments)

    def _is_of_another_loop(self, data):
        """Whether `train_on_batch` calls it within a `fit`, or after one.

        Known by the generator that it makes for its batch. On PyTorch it makes
        a list, as `fit` does, and is not told apart.
        """
        maker = getattr(data, "__qualname__", "")
        return "train_on_batch" in maker and not self._in_loop

    def _call(self, *arguments):
        """The call of the train function, with the backend's arguments."""
        raise NotImplementedError

    def _batches(self, data):
        """The batches of a call, as a list."""
        return list(itertools.islice(data, self._model.steps_per_execution))


class Beside(TrainFunction):
    """Shows a batch of the call to a function before hers trains on it.

    Args:
        model: The model.
        feed: The `Feed` of the `fit`.
        choose: Function from the number of batches of the call, which are more
            than one with `steps_per_execution`, to the index of the one.
        observe: Function of that batch and its index.
        in_loop: Whether `train_on_batch` calls it.
    """

    def __init__(self, model, feed, choose, observe, in_loop=False):
        super().__init__(model, in_loop)
        self._feed, self._choose, self._observe = feed, choose, observe

    def _call(self, *arguments):
        *state, data = arguments
        batches = self._batches(data)
        if not batches:
            # On data of unknown size Keras counts a step that finds no more.
            return self.found(*arguments)
        place = self._choose(len(batches))
        feed = self._feed.with_rest
        if place:
            result = self.found(*state, self._feed(batches[:place], data))
            state, feed = result[1:] if state else [], self._feed
        with self._attached(*state):
            self._observe(batches[place], place)
        return self.found(*state, feed(batches[place:], data))

    def _attached(self, *state):
        """Context in which the model has the state that a call is given."""
        return contextlib.nullcontext()


def innermost(train_function):
    """The function that stands behind any number of stand-ins."""
    while isinstance(train_function, TrainFunction):
        train_function = train_function.found
    return train_function
