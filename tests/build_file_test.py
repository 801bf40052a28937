"""Holds the BUILD file to the imports that the sources really have."""

import ast
import contextlib
import functools
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE_FOLDERS = ("keras_svag", "tests", "configs", "benchmarks")
RULES = ("py_library", "py_binary", "py_test")
# The one program that starts every py_test, and so has no target of its own.
TEST_MAIN = "tests/run_pytest.py"


@functools.cache
def targets():
    """Maps each target's name to its rule's keyword arguments."""
    found = {}
    for node in ast.parse((ROOT / "BUILD").read_text()).body:
        call = getattr(node, "value", None)
        if isinstance(call, ast.Call) and call.func.id in RULES:
            # Globs stand only in `data`, which the imports do not determine.
            attributes = {
                keyword.arg: ast.literal_eval(keyword.value)
                for keyword in call.keywords
                if keyword.arg != "data"
            }
            name = attributes["name"]
            assert name not in found, f'BUILD has two targets "{name}"'
            found[name] = {"rule": call.func.id, **attributes}
    return found


def own_sources(target):
    return [source for source in target["srcs"] if source != TEST_MAIN]


@functools.cache
def owners():
    """Maps each source file to the names of the targets that list it."""
    found = {}
    for name, target in targets().items():
        for source in own_sources(target):
            found.setdefault(source, []).append(name)
    return found


def source_files():
    files = {"train.py"}
    for folder in SOURCE_FOLDERS:
        files.update(
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob("*.py")
        )
    return sorted(files - {TEST_MAIN})


def file_of_module(module):
    """The project's file that `import module` runs, or None."""
    path = module.replace(".", "/")
    # pytest and Python put a script's own folder on the path.
    for candidate in (
        f"{path}.py",
        f"{path}/__init__.py",
        f"tests/{path}.py",
    ):
        if (ROOT / candidate).is_file():
            return candidate
    return None


def import_statements(tree):
    """The imports in some code, and in the code that it holds as a string.

    Tests start processes of their own on code in strings.
    """
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.Constant) and "import " in str(node.value):
            with contextlib.suppress(SyntaxError):
                code = textwrap.dedent(str(node.value))
                yield from import_statements(ast.parse(code))


def imported_files(source):
    """The project's files that `source` imports, at any depth of its code."""
    files = set()
    for node in import_statements(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.Import):
            files.update(file_of_module(alias.name) for alias in node.names)
            continue
        assert node.level == 0, f"{source} has a relative import"
        for alias in node.names:
            files.add(
                file_of_module(f"{node.module}.{alias.name}")
                or file_of_module(node.module)
            )
    return files - {None, source}


def expected_deps(target):
    deps = set()
    for source in own_sources(target):
        for file in imported_files(source):
            deps.update(f":{name}" for name in owners().get(file, ()))
    if target["rule"] == "py_test":
        deps.add(":conftest")
    return deps


@pytest.mark.parametrize("source", source_files())
def test_source_has_exactly_one_target(source):
    names = owners().get(source, [])
    assert len(names) == 1, (
        f'"{source}" is in the srcs of {names or "no target"} of BUILD;'
        " give it exactly one"
    )


@pytest.mark.parametrize("name", targets())
def test_target_has_the_deps_that_its_sources_import(name):
    target = targets()[name]
    listed = target.get("deps", [])
    expected = expected_deps(target)
    lacking = sorted(expected - set(listed))
    superfluous = sorted(set(listed) - expected)
    assert not lacking, f'{target["rule"]} "{name}" lacks deps {lacking}'
    assert not superfluous, (
        f'{target["rule"]} "{name}" has deps that nothing imports: '
        f"{superfluous}"
    )
    assert sorted(listed) == listed, f'sort the deps of "{name}"'


@pytest.mark.parametrize("name", targets())
def test_target_has_sources_that_exist(name):
    for source in targets()[name]["srcs"]:
        assert (ROOT / source).is_file(), f'"{name}" lists {source}'


def test_every_test_file_is_run_by_its_target():
    tests = [t for t in targets().values() if t["rule"] == "py_test"]
    for target in tests:
        assert target["main"] == TEST_MAIN, target["name"]
        assert target["args"] == own_sources(target), target["name"]
    run = {argument for target in tests for argument in target["args"]}
    assert run == {s for s in source_files() if s.endswith("_test.py")}
