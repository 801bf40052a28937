"""Holds the BUILD files to the sources and to what they really import."""

import ast
import contextlib
import functools
import textwrap
import types

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


def paths(pattern):
    """Paths of the project's files, from its root."""
    found = [*ROOT.glob(pattern)]
    for folder in FOLDERS:
        found += (ROOT / folder).rglob(pattern)
    # Bazel makes up an empty __init__.py in every folder.
    real = (p for p in found if p.name != "__init__.py" or p.stat().st_size)
    return sorted(path.relative_to(ROOT).as_posix() for path in real)


def package_of(path):
    """The nearest folder above a file that has a BUILD file."""
    folder = (ROOT / path).parent
    while not (folder / "BUILD").is_file():
        folder = folder.parent
    return "" if folder == ROOT else folder.relative_to(ROOT).as_posix()


def absolute(label, package):
    """A label with its package and its name: `//a` is `//a:a`."""
    if not label.startswith("//"):
        return f"//{package}:{label.removeprefix(':')}"
    return label if ":" in label else f"{label}:{label.split('/')[-1]}"


@functools.cache
def targets():
    """Maps the label of each target to its rule and its attributes.

    Starlark is close enough to Python for the files to be run as such.
    """
    found = {}

    def run(file, package):
        def rule(kind):
            def make(name, srcs=(), deps=(), data=(), **attributes):
                label = absolute(name, package)
                assert label not in found, f"two targets {label}"
                found[label] = {"rule": kind, **attributes}
                lists = {"srcs": srcs, "deps": deps, "data": data}
                for key, labels in lists.items():
                    found[label][key] = [absolute(x, package) for x in labels]

            return make

        def glob(patterns, exclude=()):
            folder = ROOT / package
            files = {f for p in patterns for f in folder.glob(p)}
            files -= {f for p in exclude for f in folder.glob(p)}
            names = (f.relative_to(folder).as_posix() for f in files)
            return sorted(
                name
                for name in names
                if package_of(f"{package}/{name}".lstrip("/")) == package
            )

        def load(label, *loaded):
            if label.startswith("//"):
                module = run(path_of(label), package)
                names.update({name: module[name] for name in loaded})

        def ignored(*_, **__):
            pass

        names = {
            "glob": glob,
            "load": load,
            **dict.fromkeys(("package", "licenses", "exports_files"), ignored),
            **{k: rule(k) for k in ("py_library", "py_binary", "py_test")},
        }
        native = types.SimpleNamespace(**names, package_name=lambda: package)
        names["native"] = native
        exec((ROOT / file).read_text(), names)
        return names

    for file in paths("BUILD"):
        run(file, package_of(file))
    return found


def built():
    return {k: v for k, v in targets().items() if v["rule"] != "py_test"}


def pytest_targets():
    return {k: v for k, v in targets().items() if v["rule"] == "py_test"}


@functools.cache
def owners():
    """Maps each source's label to the labels of the targets that list it."""
    found = {}
    for label, target in built().items():
        for source in target["srcs"]:
            found.setdefault(source, []).append(label)
    return found


def label_of(path):
    package = package_of(path)
    return f"//{package}:{path.removeprefix(f'{package}/')}"


def path_of(label):
    return label.removeprefix("//").replace(":", "/").lstrip("/")


def file_of(module):
    """The project's file that `import module` runs, or None."""
    path = module.replace(".", "/")
    candidates = (f"{path}.py", f"{path}/__init__.py")
    return next((c for c in candidates if (ROOT / c).is_file()), None)


def code_of(source):
    """The code of a file, and that in its strings.

    Tests start processes of their own on code in strings.
    """
    open_trees = [ast.parse((ROOT / path_of(source)).read_text())]
    while open_trees:
        yield (tree := open_trees.pop())
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and "import " in str(node.value):
                with contextlib.suppress(SyntaxError):
                    code = textwrap.dedent(str(node.value))
                    open_trees.append(ast.parse(code))


def expected_deps(label):
    modules = {
        module
        for source in built()[label]["srcs"]
        for tree in code_of(source)
        for module in imported_modules(tree)
    }
    files = {file_of(module) for module in modules} - {None}
    return {owners()[label_of(file)][0] for file in files} - {label}


def test_source_has_exactly_one_target():
    for source in {*paths("*.py")} - {UNBUILT}:
        assert len(owners().get(label_of(source), ())) == 1, source


def test_target_has_the_deps_that_its_sources_import():
    for label in built():
        listed, expected = set(built()[label]["deps"]), expected_deps(label)
        lacking, superfluous = (
            sorted(expected - listed),
            sorted(listed - expected),
        )
        assert not lacking, f"{label} lacks deps {lacking}"
        assert not superfluous, f"{label} imports nothing of {superfluous}"


def test_target_has_sources_that_exist():
    for label in targets():
        for source in targets()[label]["srcs"]:
            assert (ROOT / path_of(source)).is_file(), source


def test_every_test_file_is_run_by_its_target():
    for label, target in pytest_targets().items():
        assert target["srcs"] == [target["main"]]
        (path,) = target["args"]
        assert label == label_of(path).removesuffix(".py")
        assert owners()[label_of(path)][0] in target["deps"]
        assert owners()["//tests:conftest.py"][0] in target["deps"]
    run = [
        path for target in pytest_targets().values() for path in target["args"]
    ]
    assert sorted(run) == paths("*_test.py")


def test_these_tests_are_given_what_they_read():
    given = {"//tests:build_files_test"}
    found = set()
    while given:
        found.add(label := given.pop())
        target = targets().get(label, {})
        given |= {*target.get("deps", ()), *target.get("data", ())} - found
    assert set(built()) <= found
    assert {label_of(path) for path in paths("BUILD")} <= found
