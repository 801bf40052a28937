"""The library of a folder."""

load("@rules_python//python:defs.bzl", "py_library")

def package_library(deps, srcs = ["*.py"]):
    """Makes a library of the folder's modules, with the folder's name.

    Args:
      deps: the packages that they import.
      srcs: patterns of the modules' names.
    """
    native.exports_files(["BUILD"])
    py_library(
        name = native.package_name().split("/")[-1],
        srcs = native.glob(srcs),
        visibility = ["//visibility:public"],
        deps = deps,
    )
