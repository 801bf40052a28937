"""Every public name has type hints; `make lint` checks that they fit."""

import inspect
import types
import typing

import keras_svag
from tests.clients import typed


def is_ours(thing):
    return str(getattr(thing, "__module__", "")).startswith("keras_svag.")


def public_things(module=keras_svag):
    """The classes and functions that a module and those in it make public."""
    for name in getattr(module, "__all__", vars(module)):
        thing = getattr(module, name)
        if isinstance(thing, types.ModuleType) and hasattr(module, "__all__"):
            yield from public_things(thing)
        elif is_ours(thing) and not name.startswith("_"):
            yield thing


def members(cls):
    """The public functions of a class that the library defines, by name."""
    for base in filter(is_ours, cls.__mro__):
        for name, member in vars(base).items():
            if name.startswith("_") and name not in ("__init__", "__call__"):
                continue
            if isinstance(member, property):
                yield f"{base.__name__}.{name}", member.fget
                if member.fset:
                    yield f"{base.__name__}.{name} as set", member.fset
            function = inspect.unwrap(getattr(member, "__func__", member))
            # A dataclass makes functions from the hints of its fields.
            if inspect.isfunction(function) and is_ours(function):
                yield f"{base.__name__}.{name}", function


def named_classes(hint):
    """The library's classes that a hint names."""
    if isinstance(hint, type) and is_ours(hint):
        yield hint
    for part in typing.get_args(hint):
        yield from named_classes(part)


def public_functions():
    """Maps names to functions: of public things, and of what these give."""
    found, things = {}, list(public_things())
    seen = set(things)
    for thing in things:
        if isinstance(thing, type):
            functions = dict(members(thing))
            hints = [typing.get_type_hints(thing)]
        else:
            functions, hints = {thing.__qualname__: thing}, []
        found |= functions
        hints += [typing.get_type_hints(f) for f in functions.values()]
        for hint in (hint for of_one in hints for hint in of_one.values()):
            new = set(named_classes(hint)) - seen
            seen |= new
            things += new
    return found


FUNCTIONS = public_functions()


def test_what_users_get_is_among_the_functions():
    assert {
        "svag_weights",
        "SVAGModel.__init__",
        "SVAGModel.compile",
        "PairedOptimizer.effective_iterations",
        "GradientNoiseMonitor.estimate",
        "linear_scaling_rule",
        "ClosenessPrediction.closeness",
        "PreResNet",
        # What `ScalingRuleCheck.report` gives.
        "ScalingReport.to_logs",
        "ScalingVerdict.max_batch_size",
    } <= set(FUNCTIONS)


def test_public_function_has_all_hints():
    for name in FUNCTIONS:
        signature = inspect.signature(FUNCTIONS[name])
        bare = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.annotation is parameter.empty
            and parameter.name not in ("self", "cls")
        ]
        assert not bare, f"{name} has no hints for {bare}"
        assert signature.return_annotation is not signature.empty, name


def test_program_with_hints_runs(capsys):
    typed.main()
    assert "NOT RULED OUT" in capsys.readouterr().out
