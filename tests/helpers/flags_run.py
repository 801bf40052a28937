"""Gives train.py bad command lines, and says how each one ended.

Reads a list of argument lists as JSON; prints `[[exit code, lines of stderr,
files left], …]` as JSON. Each has a process of its own, forked from one that
has imported TensorFlow but not used it.
"""

import contextlib
import io
import json
import multiprocessing
import os
import sys

from absl import app

import train


def ended(arguments):
    """Exit code, lines of stderr, and files after `train.py` ended."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            code = train.main(train.parse_flags(["train.py", *arguments]))
        except app.UsageError as error:
            code = 1
            print(f"train.py: {error}", file=errors)
        except SystemExit as exit:
            code = exit.code
            if isinstance(code, str):
                print(code, file=errors)
                code = 1
    return code, errors.getvalue().strip().splitlines(), os.listdir(".")


def main():
    context = multiprocessing.get_context("fork")
    with context.Pool(1, maxtasksperchild=1) as pool:
        outcomes = pool.map(ended, json.load(sys.stdin), chunksize=1)
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
