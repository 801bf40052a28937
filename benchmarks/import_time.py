"""What `import keras_svag` adds to `import keras, tensorflow`.

    python benchmarks/import_time.py [--rounds 9]

Every import has a process of its own, with the bytecode compiled before.
"""

import argparse
import os
import subprocess
import sys

from side_by_side import (
    alternating_rounds,
    milliseconds,
    print_header,
    print_row,
)

TIMED_IMPORT = """
import time
{before}
start = time.perf_counter()
import {imported}
print(time.perf_counter() - start)
"""


def seconds_of_import(imported, before=""):
    completed = subprocess.run(
        [
            sys.executable,
            "-c",
            TIMED_IMPORT.format(imported=imported, before=before),
        ],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return float(completed.stdout)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    seconds = alternating_rounds(
        {
            "keras, tensorflow": lambda: seconds_of_import("keras, tensorflow"),
            "keras_svag after them": lambda: seconds_of_import(
                "keras_svag", before="import keras, tensorflow"
            ),
        },
        arguments.rounds,
    )
    print_header("import", "median, ms", "range, ms")
    for name, times in seconds.items():
        print_row(
            name,
            milliseconds(times),
            f"{1000 * min(times):.0f} to {1000 * max(times):.0f}",
        )


if __name__ == "__main__":
    main()
