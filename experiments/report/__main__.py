"""Reports on the finished runs below a folder.

    python -m experiments.report runs/sweep

writes `report.md` and its figures there, or to `--output`, and the same for
TensorBoard to `report/`. Runs are grouped by what differs in them: SVAG's ell,
the batch size by a scaling rule, its growth, or NGD and SGD.
"""

import argparse
import os
import sys

from experiments.process.streams import check_arguments, protect_streams

if __name__ == "__main__":
    protect_streams()
    # Before TensorFlow is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from experiments.report.writing import MOST_COMPARISONS_DRAWN, write_report
from keras_svag.arguments import printable


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description="Reports on the finished runs below a folder.",
    )
    parser.add_argument("workdir", metavar="WORKDIR")
    where = "folder of the report; WORKDIR if none"
    parser.add_argument("--output", metavar="DIR", help=where)
    parser.add_argument(
        "--figures",
        metavar="N",
        type=int,
        default=MOST_COMPARISONS_DRAWN,
        help="how many comparisons get figures, %(default)s if not given",
    )
    options = parser.parse_args(arguments)
    if options.figures < 0:
        parser.error(f"--figures must be at least 0, got {options.figures}.")
    try:
        check_arguments(sys.argv if arguments is None else arguments)
        path = write_report(options.workdir, options.output, options.figures)
    except ValueError as error:
        sys.exit(f"experiments.report: {printable(error)}")
    print(f"The report is in {printable(path)}.")
    print(f"tensorboard --logdir={printable(os.path.dirname(path))}")


if __name__ == "__main__":
    main()
