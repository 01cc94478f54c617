"""What `make release-check` makes of pip-audit's answers: known weaknesses, none, and no answer at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.scripts import TOOLS, script

release_check = script("release_check")


def check(folder: Path, status: int, said: str) -> list[str]:
    """The check with a pip-audit that says so; returns what it was asked."""
    tools = folder / "python"
    asked = f"open({str(folder / 'asked')!r}, 'w').write(' '.join(sys.argv[1:]))"
    answer = f"print({said!r}, file=sys.stderr)\nsys.exit({status})\n"
    tools.write_text(f"#!{sys.executable}\nimport sys\n{asked}\n{answer}")
    tools.chmod(0o755)
    release = release_check.Release.__new__(release_check.Release)
    release.tools = tools
    release.vulnerabilities()
    return (folder / "asked").read_text().split()


def test_every_pinned_file_is_audited(tmp_path: Path) -> None:
    asked = check(tmp_path, 0, "No known vulnerabilities found")
    assert asked[:2] == ["-m", "pip_audit"]
    files = {Path(name).name for name in asked if name.endswith(".txt")}
    assert files == {path.name for path in TOOLS.parent.glob("requirements-*.txt")}


def test_a_known_weakness_speaks_against_a_release(tmp_path: Path) -> None:
    with pytest.raises(release_check.CheckError, match="PYSEC-2099-1"):
        check(tmp_path, 1, "Found 1 known vulnerability in 1 package: PYSEC-2099-1")


@pytest.mark.parametrize(
    "said",
    ["requests.exceptions.ConnectionError: pypi.org", "ERROR: Could not connect to PyPI", "Read timed out.",
     "HTTPSConnectionPool: Max retries exceeded", "requests.exceptions.HTTPError: 403 Client Error: Forbidden"],
)  # fmt: skip
def test_databases_that_do_not_answer(said: str, tmp_path: Path) -> None:
    """It is said, and is no reason against a release."""
    with pytest.raises(release_check.NotCheckedError, match="the database does not answer"):
        check(tmp_path, 1, said)
