"""A program that may read and write no more than the modes of files say.

    Program("tests/helpers/unprivileged.py", "train.py", …, UMASK="022")

The superuser may all, so what he starts gives that up.
"""

import ctypes
import os
import runpy
import sys


def give_up_capabilities():
    """Takes from this process what a user has not; on Linux."""
    version_and_process = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if ctypes.CDLL(None).capset(version_and_process, (ctypes.c_uint32 * 6)()):
        raise OSError("The capabilities cannot be given up.")


if __name__ == "__main__":
    if os.geteuid() == 0:
        give_up_capabilities()
    os.umask(int(os.environ["UMASK"], 8))
    del sys.argv[0]
    run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
    run(sys.argv[0], run_name="__main__")
