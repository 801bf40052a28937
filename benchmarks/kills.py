"""Kills that may change the last bits of a run, and what is said of them.

    python benchmarks/kills.py --kills=30
    python benchmarks/kills.py --kills=30 --replicas=2 --kinds beside adam

kills runs of train.py of every kind, each start with another interval from one
checkpoint to the next: nothing may differ. Then every start has another number
of TensorFlow's threads, too: what differs must have been said. The last line
says whether it held. Not for every commit: it takes as long as the kills are
many.
"""

import argparse
import sys
import tempfile

from tests.helpers.kill_harness import INTERVALS, KINDS, run_with_kills


def study(kind, kills, epochs, threads, replicas):
    """Returns the files that differ, and how often that was announced."""
    with tempfile.TemporaryDirectory() as folder:
        differing = run_with_kills(
            kind,
            kills,
            epochs,
            longest=6.0,
            seed=0,
            folder=folder,
            intervals=INTERVALS,
            threads=threads,
            replicas=replicas,
        )
        with open(f"{folder}/log") as log:
            said = log.read().count("but not to the bit")
    print(
        f"{kind}, replicas {replicas}, threads {threads}: {kills} kills, "
        f"differing: {differing or 'nothing'}, said {said} times",
        flush=True,
    )
    return differing, said


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    arguments = vars(parser.parse_args())
    kinds = arguments.pop("kinds")
    held = True
    for threads in ((0,), (1, 2, 4)):
        for kind in kinds:
            differing, said = study(kind, threads=threads, **arguments)
            held &= not differing or (len(threads) > 1 and said > 0)
            held &= len(threads) > 1 or said == 0
    print("held" if held else "did not hold")
    sys.exit(not held)


if __name__ == "__main__":
    main()
