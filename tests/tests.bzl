"""The tests of a folder."""

load("@rules_python//python:defs.bzl", "py_library", "py_test")

MAIN = "//tests/helpers:run_pytest.py"

def pytest_tests(deps, data = [], long = []):
    """Makes a library of the folder's test files and a test of each.

    Args:
      deps: the packages that the test files import.
      data: files that the tests read.
      long: names of tests that may take 15 minutes.
    """
    native.exports_files(["BUILD"])
    files = native.glob(["*_test.py"])
    py_library(
        name = "tests",
        testonly = True,
        srcs = files,
        visibility = ["//visibility:public"],
        deps = deps,
    )
    for file in files:
        name = file[:-len(".py")]
        py_test(
            name = name,
            timeout = "long" if name in long else "moderate",
            srcs = [MAIN],
            args = [native.package_name() + "/" + file],
            data = data + ["//:pyproject.toml"],
            main = MAIN,
            deps = [":tests", "//tests:conftest"],
        )
