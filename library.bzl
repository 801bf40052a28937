"""The library of a folder."""

load("@rules_python//python:defs.bzl", "py_library")

def package_library(deps):
    """Makes a library of the folder's modules, with the folder's name.

    Args:
      deps: the packages that they import.
    """
    native.exports_files(["BUILD"])
    py_library(
        name = native.package_name().split("/")[-1],
        srcs = native.glob(["*.py"]),
        visibility = ["//visibility:public"],
        deps = deps,
    )
