"""Every public name has type hints; `make lint` checks that they fit."""

import inspect

import keras_svag
from keras_svag import (
    NoiseEstimate,
    NoiseSeries,
    ScalingReport,
    applications,
    scaling,
)
from tests.clients import typed


def public_functions():
    """Names and functions of what is public, those of classes too."""
    for module in (keras_svag, scaling, applications):
        for thing in (getattr(module, name) for name in module.__all__):
            if not isinstance(thing, type):
                yield thing
                continue
            for name, member in inspect.getmembers(thing):
                if isinstance(member, property):
                    member = member.fget
                member = inspect.unwrap(getattr(member, "__func__", member))
                ours = getattr(member, "__module__", "") or ""
                if (
                    inspect.isfunction(member)
                    and ours.startswith("keras_svag")
                    and (name == "__init__" or not name.startswith("_"))
                ):
                    yield member


def test_public_function_has_all_hints():
    found = {f for f in public_functions() if inspect.isfunction(f)}
    assert {
        NoiseEstimate.interval,
        NoiseSeries.window,
        ScalingReport.to_logs,
        scaling.linear_scaling_rule,
        applications.PreResNet,
    } <= found
    for function in found:
        signature = inspect.signature(function)
        for parameter in signature.parameters.values():
            if parameter.name not in ("self", "cls"):
                assert parameter.annotation is not parameter.empty, function
        assert signature.return_annotation is not signature.empty, function


def test_program_with_hints_runs(capsys):
    typed.main()
    assert "{'learning_rate': 0.2" in capsys.readouterr().out
