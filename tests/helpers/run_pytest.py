"""The main program of every Bazel test: runs pytest on the named files."""

import os
import sys

import pytest

if __name__ == "__main__":
    # A sandbox has no home: each process would make a folder, and say so.
    os.environ.setdefault("MPLCONFIGDIR", os.environ.get("TEST_TMPDIR", ""))
    code = pytest.main(["-p", "no:cacheprovider", *sys.argv[1:]])
    # A file may be for another backend.
    sys.exit(0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else code)
