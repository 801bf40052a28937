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
REQUIRED = {"keras", "numpy", "scipy"}
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
IMPORTS = (ast.Import, ast.ImportFrom)
PRIVATE_MODULES = ("keras.src", "tensorflow.python")


def is_in(module, package):
    return f"{module}.".startswith(f"{package}.")


@functools.cache
def trees():
    """Maps each module of the library and the experiments to its code."""
    return {
        architecture.module_of(path): ast.parse(path.read_text())
        for path in architecture.sources()
    }


def imported(module):
    return set(architecture.imported_modules(trees()[module]))


def test_module_imports_only_what_it_may_know():
    names = list(architecture.LIBRARY)
    for module, tree in trees().items():
        found, package = imported(module), architecture.package_of(module)
        for node in ast.walk(tree):
            assert not getattr(node, "level", 0), ast.unparse(node)
        for holder, forbidden in FORBIDDEN.items():
            for other in forbidden if is_in(module, holder) else ():
                assert not any(is_in(m, other) for m in found), (module, other)
        # A package imports only from packages above it.
        own = names.index(package) if package in names else len(names)
        allowed = {*names[:own], package}
        for other in (m for m in found if is_in(m, "keras_svag")):
            if other not in FOUNDATIONS:
                assert module not in FOUNDATIONS, (module, other)
                assert architecture.package_of(other) in allowed, (
                    module,
                    other,
                )
        if is_in(module, "keras_svag"):
            in_backend = is_in(module, "keras_svag.backend")
            known = REQUIRED | (BACKENDS if in_backend else set())
            known |= {"keras_svag"} | sys.stdlib_module_names
            at_once = [n for n in tree.body if isinstance(n, IMPORTS)]
            at_once = architecture.imported_modules(ast.Module(at_once, []))
            assert {name.split(".")[0] for name in at_once} <= known, module
            roots = {name.split(".")[0] for name in found}
            assert roots <= known | OPTIONAL, module
            assert in_backend or not list(private_uses(tree)), module


def test_packages_are_those_of_the_table():
    folders = {
        architecture.module_of(path)
        for path in architecture.sources()
        if path.name == "__init__.py"
    }
    # A part of the backend's.
    folders.remove("keras_svag.backend.tensorflow")
    assert folders | {"train"} == {*architecture.PACKAGES, "keras_svag"}
    for folder in {path.parent for path in architecture.sources()} - {ROOT}:
        assert len(list(folder.glob("*.py"))) <= 12, folder


def test_modules_import_one_another_in_one_direction():
    graph = {module: imported(module) - {module} for module in trees()}
    # Raises where modules import one another in a circle.
    tuple(graphlib.TopologicalSorter(graph).static_order())


def defined_names():
    """Names of the project's own functions and attributes."""
    for node in (n for tree in trees().values() for n in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Attribute):
            if isinstance(node.ctx, ast.Store) and is_own(node.value):
                yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def is_own(value):
    """Whether an object is the one whose class the code is of."""
    return ast.unparse(value) in ("self", "cls", "super()")


@functools.cache
def own_names():
    # A name that ours overrides is Keras's on any other object.
    objects = (keras.Sequential(), keras.optimizers.SGD(), keras.metrics.Mean())
    inherited = {name for keras_object in objects for name in dir(keras_object)}
    return set(defined_names()) - inherited


def private_uses(tree):
    """What code takes from Keras or TensorFlow that is not promised to stay."""
    for module in architecture.imported_modules(tree):
        if any(is_in(module, private) for private in PRIVATE_MODULES):
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


def test_picture_shows_the_imports():
    assert architecture.PICTURE.read_text() == architecture.picture(), (
        "run `python docs/architecture.py`"
    )
