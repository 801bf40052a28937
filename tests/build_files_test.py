"""Holds the BUILD files to the sources and to what they really import."""

import ast
import contextlib
import functools
import textwrap

from docs.architecture import imported_modules
from tests.helpers.paths import ROOT

# What no target builds: it is run by pip.
UNBUILT = "setup.py"
FOLDERS = (
    "benchmarks",
    "configs",
    "docs",
    "experiments",
    "keras_svag",
    "tests",
)
PACKAGES = ("", "experiments", "keras_svag", "tests")


def paths(pattern):
    """Paths of the project's files, from its root."""
    found = [*ROOT.glob(pattern)]
    for folder in FOLDERS:
        found += (ROOT / folder).rglob(pattern)
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def absolute(label, package):
    """A label with its package and its name: `//a` is `//a:a`."""
    if not label.startswith("//"):
        return f"//{package}:{label.removeprefix(':')}"
    return label if ":" in label else f"{label}:{label.removeprefix('//')}"


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

        def ignored(*_, **__):
            pass

        rules = ("filegroup", "py_library", "py_binary", "py_test")
        loaded = ("exports_files", "licenses", "load", "package")
        return {
            "glob": glob,
            **dict.fromkeys(loaded, ignored),
            **{kind: rule(kind) for kind in rules},
        }

    for package in PACKAGES:
        exec((ROOT / package / "BUILD").read_text(), names_in(package))
    return found


def built():
    rules = ("py_library", "py_binary")
    return {k: v for k, v in targets().items() if v["rule"] in rules}


@functools.cache
def owners():
    """Maps each source's path to the labels of the targets that list it."""
    found = {}
    for label, target in built().items():
        for source in target["srcs"]:
            found.setdefault(path_of(source), []).append(label)
    return found


def path_of(label):
    return label.removeprefix("//").replace(":", "/").lstrip("/")


def file_of(module):
    """The project's file that `import module` runs, or None."""
    path = module.replace(".", "/")
    candidates = (f"{path}.py", f"{path}/__init__.py")
    return next((c for c in candidates if (ROOT / c).is_file()), None)


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


def test_source_has_exactly_one_target():
    for source in {*paths("*.py")} - {UNBUILT}:
        assert len(owners().get(source, ())) == 1, source
    assert {*owners()} <= {*paths("*.py")}


def test_target_has_the_deps_that_its_sources_import():
    for label, target in built().items():
        imported = {
            file_of(module)
            for source in target["srcs"]
            for tree in code_of(path_of(source))
            for module in imported_modules(tree)
        } - {None}
        expected = {owners()[file][0] for file in imported} - {label}
        assert sorted(expected) == sorted(target["deps"]), label


def test_every_test_file_is_run_by_its_target():
    run = []
    for label, target in targets().items():
        if target["rule"] == "py_test":
            (path,) = target["args"]
            assert label == f"//tests:{path[len('tests/') : -len('.py')]}"
            assert target["deps"] == ["//tests:tests"]
            assert target["srcs"] == [f"//tests:{target['main']}"]
            run.append(path)
    assert sorted(run) == paths("*_test.py")


def test_these_tests_are_given_what_they_read():
    given, found = {"//tests:build_files_test"}, set()
    while given:
        found.add(label := given.pop())
        target = targets().get(label, {})
        for part in ("srcs", "deps", "data"):
            given |= {*target.get(part, ())} - found
    assert set(built()) <= found
    read = {path_of(label) for label in found}
    assert {*paths("BUILD")} <= read
