"""Start of the ``ulmfit-fast`` command: says what to install where the text extra is missing."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from ulmfit_fast.cli.main import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("ulmfit_fast"):
            raise
        remedy = "in its source folder: pip install --no-build-isolation '.[text]'"
        print(f"ulmfit-fast: {error.name} is not installed; {remedy}", file=sys.stderr)
        sys.exit(2)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
