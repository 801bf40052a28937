"""Holds the BUILD files to the sources and to what they really import."""

import ast
import contextlib
import functools
import textwrap

from docs.architecture import imported_modules
from tests.helpers.paths import ROOT

FOLDERS = "benchmarks configs docs experiments keras_svag tests".split()
PACKAGES = ("", "experiments", "keras_svag", "tests")


def paths(pattern):
    """Paths of the project's files, from its root."""
    found = {*ROOT.glob(pattern)}
    for folder in FOLDERS:
        found |= {*(ROOT / folder).rglob(pattern)}
    return {path.relative_to(ROOT).as_posix() for path in found}


def absolute(label, package):
    """A label with its package and its name: `//a` is `//a:a`."""
    if not label.startswith("//"):
        return f"//{package}:{label.removeprefix(':')}"
    return label if ":" in label else f"{label}:{label.removeprefix('//')}"


def path_of(label):
    return label.removeprefix("//").replace(":", "/").lstrip("/")


@functools.cache
def targets():
    """Maps the label of each target to its rule and its attributes.

    Starlark is close enough to Python for the files to be run as such.
    """
    found = {}

    def names_in(package):
        def rule(kind):
            def make(name, srcs=(), deps=(), data=(), **attributes):
                label = absolute(name, package)
                assert label not in found, f"two targets {label}"
                found[label] = {"rule": kind, **attributes}
                lists = {"srcs": srcs, "deps": deps, "data": data}
                for key, labels in lists.items():
                    found[label][key] = [absolute(x, package) for x in labels]

            return make

        def glob(patterns, **_):
            folder = ROOT / package
            files = {f for p in patterns for f in folder.glob(p) if f.is_file()}
            return sorted(f.relative_to(folder).as_posix() for f in files)

        rules = ("filegroup", "py_library", "py_binary", "py_test")
        ignored = ("exports_files", "licenses", "load", "package")
        return {
            "glob": glob,
            **{kind: rule(kind) for kind in rules},
            **dict.fromkeys(ignored, lambda *_, **__: None),
        }

    for package in PACKAGES:
        exec((ROOT / package / "BUILD").read_text(), names_in(package))
    return found


def of_rules(*rules):
    return {k: v for k, v in targets().items() if v["rule"] in rules}


def code_of(path):
    """The code of a file, and that in its strings.

    Tests start processes of their own on code in strings.
    """
    open_trees = [ast.parse((ROOT / path).read_text())]
    while open_trees:
        yield (tree := open_trees.pop())
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and "import " in str(node.value):
                with contextlib.suppress(SyntaxError):
                    code = textwrap.dedent(str(node.value))
                    open_trees.append(ast.parse(code))


def test_targets_have_the_sources_once_and_what_they_import():
    built, owners = of_rules("py_library", "py_binary"), {}
    for label, target in built.items():
        for source in map(path_of, target["srcs"]):
            assert owners.setdefault(source, label) == label, source
    # What no target builds is run by pip.
    assert {*owners} == paths("*.py") - {"setup.py"}
    for label, target in built.items():
        imported = {
            module.replace(".", "/")
            for source in target["srcs"]
            for tree in code_of(path_of(source))
            for module in imported_modules(tree)
        }
        imported = {
            owners.get(f"{path}{end}")
            for path in imported
            for end in (".py", "/__init__.py")
        }
        assert imported - {None, label} == {*target["deps"]}, label


def test_every_test_file_is_run_by_its_target():
    run = {}
    for label, target in of_rules("py_test").items():
        (path,) = target["args"]
        run[path] = label, target["deps"], target["srcs"]
    assert run == {
        path: (
            f"//tests:{path[len('tests/') : -len('.py')]}",
            ["//tests:tests"],
            ["//tests:helpers/run_pytest.py"],
        )
        for path in paths("*_test.py")
    }


def test_these_tests_are_given_what_they_read():
    given, found = {"//tests:build_files_test"}, set()
    while given:
        found.add(label := given.pop())
        target = targets().get(label, {})
        for part in ("srcs", "deps", "data"):
            given |= {*target.get(part, ())} - found
    assert {*of_rules("py_library", "py_binary")} <= found
    assert paths("BUILD") <= {path_of(label) for label in found}
