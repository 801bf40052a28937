"""The rooms: what may import what, and where Keras's own insides are used."""

import ast
import functools
import graphlib
import sys

import keras

from docs import architecture
from tests.helpers.paths import ROOT

# Of the project, these lie under every package.
FOUNDATIONS = ("keras_svag.arguments", "keras_svag.version")
BACKENDS = {"tensorflow", "jax", "torch"}
# What `pip install` brings, beside Python's own modules. What a frame, a
# picture or an event file needs is imported where it is made.
REQUIRED = {"keras", "numpy", "scipy", "keras_svag"} | sys.stdlib_module_names
OPTIONAL = {"tensorboard", "pandas", "matplotlib"}
FILES = {"os", "pathlib", "io", "shutil", "tempfile", "glob"}
FORBIDDEN = {
    "keras_svag": {"tensorflow_datasets"},
    "keras_svag.noise.estimate": {"keras"},
    "keras_svag.noise.ratio": {"keras"},
    "keras_svag.noise.series": {"keras", *FILES},
    "keras_svag.models": FILES,
    "keras_svag.scaling": FILES,
    "experiments.config": {"tensorflow", "keras"},
    "experiments.checkpoint": {"tensorflow"},
    "experiments.report": {"keras", "experiments.build", "experiments.fit"},
    "experiments.sweep": {"tensorflow", "keras", "experiments.build"},
}


def is_in(module, package):
    return f"{module}.".startswith(f"{package}.")


@functools.cache
def trees():
    """Maps each module of the library and the experiments to its code."""
    return {
        architecture.module_of(path): ast.parse(path.read_text())
        for path in architecture.sources()
    }


@functools.cache
def imported(module):
    return {*architecture.imported_modules(trees()[module])}


def test_module_imports_only_what_it_may_know():
    names = list(architecture.LIBRARY)
    for module, tree in trees().items():
        found, package = imported(module), architecture.package_of(module)
        assert not any(getattr(n, "level", 0) for n in ast.walk(tree)), module
        for holder, forbidden in FORBIDDEN.items():
            if is_in(module, holder):
                wrong = [m for m in found for f in forbidden if is_in(m, f)]
                assert not wrong, module
        # A package imports only from packages above it.
        own = names.index(package) if package in names else len(names)
        allowed = {*names[:own], package}
        for other in (m for m in found if is_in(m, "keras_svag")):
            assert other in FOUNDATIONS or (
                module not in FOUNDATIONS
                and architecture.package_of(other) in allowed
            ), (module, other)
        if is_in(module, "keras_svag"):
            in_backend = is_in(module, "keras_svag.backend")
            known = REQUIRED | (BACKENDS if in_backend else set())
            imports = (ast.Import, ast.ImportFrom)
            at_once = [n for n in tree.body if isinstance(n, imports)]
            at_once = architecture.imported_modules(ast.Module(at_once, []))
            assert {name.split(".")[0] for name in at_once} <= known, module
            roots = {name.split(".")[0] for name in found}
            assert roots <= known | OPTIONAL, module
            assert in_backend or not list(private_uses(tree)), module


def test_packages_are_those_of_the_picture_and_import_in_one_direction():
    folders = {path.parent for path in architecture.sources()} - {ROOT}
    modules = {path.relative_to(ROOT).as_posix() for path in folders}
    expected = {*architecture.PACKAGES, "keras_svag"} - {"train"}
    # A part of the backend's.
    expected |= {"keras_svag.backend.tensorflow"}
    assert {name.replace("/", ".") for name in modules} == expected
    assert all(len(list(folder.glob("*.py"))) <= 12 for folder in folders)
    assert architecture.PICTURE.read_text() == architecture.picture(), (
        "run `python docs/architecture.py`"
    )
    graph = {module: imported(module) - {module} for module in trees()}
    # Raises where modules import one another in a circle.
    tuple(graphlib.TopologicalSorter(graph).static_order())


def is_own(value):
    """Whether an object is the one whose class the code is of."""
    return ast.unparse(value) in ("self", "cls", "super()")


@functools.cache
def own_names():
    """Names of the project's own functions and attributes."""
    found = set()
    for node in (n for tree in trees().values() for n in ast.walk(tree)):
        is_stored = isinstance(getattr(node, "ctx", None), ast.Store)
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and is_stored:
            found |= {node.attr} if is_own(node.value) else set()
        elif isinstance(node, ast.Name) and is_stored:
            found.add(node.id)
    # A name that ours overrides is Keras's on any other object.
    objects = (keras.Sequential(), keras.optimizers.SGD(), keras.metrics.Mean())
    found -= {name for one in objects for name in dir(one)}
    return found | {"_replace"}  # Of named tuples.


def private_uses(tree):
    """What code takes from Keras or TensorFlow that is not promised to stay."""
    for module in architecture.imported_modules(tree):
        if is_in(module, "keras.src") or is_in(module, "tensorflow.python"):
            yield module
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            value, name = node.value, node.attr
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("getattr", "hasattr", "setattr")
            and isinstance(node.args[1], ast.Constant)
        ):
            value, name = node.args[0], node.args[1].value
        else:
            continue
        private = name.startswith("_") and not name.endswith("__")
        of_python = ast.unparse(value) in sys.stdlib_module_names
        if private and not (of_python or is_own(value)):
            if name not in own_names():
                yield f"{ast.unparse(value)}.{name}"


def test_private_parts_are_found():
    for code in (
        "from keras.src.backend.common import global_state",
        "model.layers[0]._losses",
        "getattr(model, '_losses', ())",
        "model._maybe_symbolic_build(data_batch=batch)",
    ):
        assert list(private_uses(ast.parse(code)))
