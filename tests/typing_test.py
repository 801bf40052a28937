"""Every public name has type hints; `make lint` checks that they fit."""

import inspect

import keras_svag
from keras_svag import applications, scaling
from tests.clients import typed


def public_functions():
    """The functions of what is public, those of classes too."""
    for module in (keras_svag, scaling, applications):
        for thing in (getattr(module, name) for name in module.__all__):
            if inspect.isfunction(thing):
                yield thing
            for name, member in inspect.getmembers(thing):
                if isinstance(member, property):
                    member = member.fget
                member = inspect.unwrap(getattr(member, "__func__", member))
                ours = getattr(member, "__module__", None) or ""
                is_public = name == "__init__" or not name.startswith("_")
                if isinstance(thing, type) and inspect.isfunction(member):
                    if is_public and ours.startswith("keras_svag"):
                        yield member


def test_public_function_has_all_hints():
    found = {*public_functions()}
    assert {
        keras_svag.NoiseEstimate.interval,
        keras_svag.ScalingReport.to_logs,
        scaling.linear_scaling_rule,
        applications.PreResNet,
    } <= found
    for function in found:
        signature = inspect.signature(function)
        assert signature.return_annotation is not signature.empty, function
        for name, parameter in signature.parameters.items():
            if name not in ("self", "cls"):
                assert parameter.annotation is not parameter.empty, function


def test_program_with_hints_runs(capsys):
    typed.main()
    assert "{'learning_rate': 0.2" in capsys.readouterr().out
