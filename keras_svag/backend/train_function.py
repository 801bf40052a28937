"""What takes the place of a model's train function for one call of it."""


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
            model.train_function = self.found
        if (
            self._is_over
            or getattr(model, "history", None) is not self._fit
            or self._is_of_another_loop(*arguments)
        ):
            return self.found(*arguments)
        self._is_over = True
        return self._call(*arguments)

    def _is_of_another_loop(self, *arguments):
        """Whether `train_on_batch` calls it within a `fit`."""
        return False

    def _call(self, *arguments):
        """The call of the train function, with the backend's arguments."""
        raise NotImplementedError


class Within(TrainFunction):
    """Calls a function after a call of a train function that observes itself.

    Args:
        model: The model.
        observe: The function, without arguments.
        in_loop: Whether `train_on_batch` calls it.
    """

    def __init__(self, model, observe, in_loop=False):
        super().__init__(model, in_loop)
        self._observe = observe

    def _call(self, *arguments):
        result = self.found(*arguments)
        self._observe()
        return result


def innermost(train_function):
    """The function that stands behind any number of stand-ins."""
    while isinstance(train_function, TrainFunction):
        train_function = train_function.found
    return train_function
