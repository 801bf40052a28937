"""The tests of a folder."""

load("@rules_python//python:defs.bzl", "py_library", "py_test")

MAIN = "//tests/helpers:run_pytest.py"

def pytest_tests(deps, long = [], **kwargs):
    """Makes a library of the folder's test files and a test of each.

    Args:
      deps: the packages that the test files import.
      long: names of tests that may take 15 minutes.
      **kwargs: other attributes of each py_test.
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
    data = kwargs.pop("data", []) + ["//:pyproject.toml"]
    for file in files:
        name = file[:-len(".py")]
        py_test(
            name = name,
            timeout = "long" if name in long else "moderate",
            srcs = [MAIN],
            args = [native.package_name() + "/" + file],
            data = data,
            main = MAIN,
            deps = [":tests", "//tests:conftest"],
            **kwargs
        )
