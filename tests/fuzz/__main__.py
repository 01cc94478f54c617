"""``python -m tests.fuzz [SURFACE ...] [--minutes M] [--cases N] [--seed S] [--case C]``: exit status 1 for finds."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.fuzz import SURFACES
from tests.fuzz.runner import fuzz
from tests.fuzz.surface import Find


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("surfaces", nargs="*", metavar="SURFACE", help=f"some of {', '.join(SURFACES)}; all")
    parser.add_argument("--minutes", type=float, default=1.0, help="for each surface (1)")
    parser.add_argument("--cases", type=int, default=1 << 40, help="of each surface, at most")
    parser.add_argument("--seed", type=int, default=0, help="other cases (0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (0)")
    parser.add_argument("--case", type=int, help="this case alone, with all that is known about it")
    parser.add_argument("--output", type=Path, help="a file to append the finds to")
    given = parser.parse_args()
    if unknown := set(given.surfaces) - set(SURFACES):
        parser.error(f"no surface {', '.join(sorted(unknown))}; there are {', '.join(SURFACES)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    def show(find: Find) -> None:
        text = f"{find.line()}\n{find.detail}" if given.case is not None else find.line()
        print(text, flush=True)
        if given.output is not None:
            with given.output.open("a") as file:
                file.write(f"{find.line()}\n{find.detail}\n\n")

    finds = 0
    first, cases = (given.first, given.cases) if given.case is None else (given.case, 1)
    for name in given.surfaces or SURFACES:
        report = fuzz(name, SURFACES[name], given.seed, first, cases, 60 * given.minutes, on_find=show)
        print(report, flush=True)
        finds += len(report.finds)
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main())
