"""Start of the ``ulmfit-fast`` command: says what to install where the text extra is missing."""

from __future__ import annotations

import sys

from ulmfit_fast.core import console


def main() -> None:
    console.open_standard_streams()
    try:
        from ulmfit_fast.cli.main import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("ulmfit_fast"):
            raise
        remedy = "in its source folder: pip install --no-build-isolation '.[text]'"
        console.say(f"ulmfit-fast: {error.name} is not installed; {remedy}", error=True)
        sys.exit(2)
    status = run(sys.argv[1:])
    failure = console.close_standard_output()
    if failure is not None and status == 0:
        console.say(f"ulmfit-fast: error: {failure.filename}: {failure.strerror}", error=True)
        status = 2
    sys.exit(status)


if __name__ == "__main__":
    main()
