"""Whether this commit can be released: ``python tools/release_check.py FOLDER TOOLS``, for `make release-check`.

FOLDER takes what is built; TOOLS is a Python with requirements-release.txt; the Python that runs this has what the
package is built with. Prints a line a check; exit status 1 where one failed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("csrc/", "ulmfit_fast/", "CMakeLists.txt", "setup.py", "pyproject.toml")
PAPERS = ("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")
NOT_SHIPPED = ("tests/", "benchmarks/", "tools/", ".github/", ".ci/")


class CheckError(Exception):
    """A reason against a release."""


class NotCheckedError(Exception):
    """A check could not be made; says why."""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckError(f"{' '.join(map(str, command))} failed:\n{(done.stdout + done.stderr).strip()[-3000:]}")
    return done.stdout


def version_of(source: str) -> str:
    """``__version__`` as it stands in a module's source."""
    match = re.search(r'^__version__ = "(\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)"$', source, re.M)
    if match is None:
        raise CheckError('ulmfit_fast/__init__.py has no line such as __version__ = "1.2.3"')
    return match[1]


def check_changelog(changelog: str, version: str) -> None:
    """The topmost section is the version's and has a date and entries."""
    sections = re.split(r"^## ", changelog, flags=re.M)[1:]
    title, _, body = (sections[0] if sections else "").partition("\n")
    if not re.fullmatch(re.escape(version) + r", \d{4}-\d{2}-\d{2}", title.strip()):
        raise CheckError(f"CHANGELOG.md begins with the section {title!r}, expected '{version}, YEAR-MONTH-DAY'")
    if not re.search(r"^- ", body, re.M):
        raise CheckError(f"CHANGELOG.md has nothing under {title!r}")


def check_files(present: set[str], tracked: list[str]) -> None:
    """An sdist's files: all that builds the package, none of what only the repository needs, nothing built."""
    needed = {name for name in tracked if name.startswith(SOURCES) or name in PAPERS}
    if needed - present:
        raise CheckError(f"the sdist lacks {', '.join(sorted(needed - present))}")
    surplus = sorted(name for name in present if name.startswith(NOT_SHIPPED) or name.endswith((".so", ".pyc")))
    if surplus:
        raise CheckError(f"the sdist holds {', '.join(surplus)}")


def check_wheel(present: set[str], tracked: list[str]) -> None:
    """A wheel's files: every module, the native one, types, the licence."""
    needed = {name for name in tracked if name.startswith("ulmfit_fast/")}
    if needed - present:
        raise CheckError(f"the wheel lacks {', '.join(sorted(needed - present))}")
    for pattern in (r"ulmfit_fast/_C\..*\.so", r".*\.dist-info/licenses/LICENSE"):
        if not any(re.fullmatch(pattern, name) for name in present):
            raise CheckError(f"the wheel holds nothing that matches {pattern}")


class Release:
    def __init__(self, folder: Path, tools: Path) -> None:
        self.folder, self.tools = folder, tools
        self.version = version_of((ROOT / "ulmfit_fast" / "__init__.py").read_text(encoding="utf-8"))
        self.tracked = run("git", "ls-files").splitlines()

    def only(self, pattern: str) -> Path:
        found = list(self.folder.glob(pattern))
        if len(found) != 1:
            raise CheckError(f"{len(found)} files {self.folder}/{pattern}, expected one")
        return found[0]

    def changelog(self) -> None:
        check_changelog((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), self.version)

    def repository(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        if "Repository" not in project.get("urls", {}):
            raise CheckError("pyproject.toml, [project.urls], names no Repository: PyPI's page would not lead here")

    def clean(self) -> None:
        changed = run("git", "status", "--porcelain")
        if changed:
            raise CheckError(f"not committed:\n{changed.rstrip()}")

    def tag(self) -> None:
        commits = run("git", "tag", "--list", f"v{self.version}", "--format", "%(objectname) %(*objectname)").split()
        if commits and run("git", "rev-parse", "HEAD").strip() not in commits:
            raise CheckError(f"the tag v{self.version} is another commit's: raise the version")

    def citation(self) -> None:
        schema = ("--builtin-schema", "vendor.citation-file-format")
        run(self.tools, "-m", "check_jsonschema", *schema, "CITATION.cff")
        if f"\nversion: {self.version}\n" not in (ROOT / "CITATION.cff").read_text(encoding="utf-8"):
            raise CheckError(f"CITATION.cff has another version than {self.version}")

    def workflows(self) -> None:
        files = [name for name in self.tracked if name.startswith(".github/workflows/")]
        run(self.tools, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *files)

    def sdist(self) -> None:
        for old in self.folder.glob("ulmfit_fast-*"):
            old.unlink()
        run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(self.folder)!r})")
        with tarfile.open(self.only("*.tar.gz")) as archive:
            check_files({name.partition("/")[2] for name in archive.getnames()}, self.tracked)

    def wheel(self) -> None:
        """Of the sdist, which shows that it holds all that it is built from."""
        options = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--wheel-dir", self.folder)
        run(sys.executable, "-m", "pip", "wheel", *options, self.only("*.tar.gz"))
        with zipfile.ZipFile(self.only("*.whl")) as archive:
            check_wheel(set(archive.namelist()), self.tracked)

    def metadata(self) -> None:
        run(self.tools, "-m", "twine", "check", "--strict", self.only("*.tar.gz"), self.only("*.whl"))

    def vulnerabilities(self) -> None:
        files = [argument for path in sorted(ROOT.glob("requirements-*.txt")) for argument in ("-r", str(path))]
        command: list[str | Path] = [
            self.tools,
            "-m",
            "pip_audit",
            "--disable-pip",
            "--no-deps",
            "--timeout",
            "10",
            *files,
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        words = (done.stdout + done.stderr).strip()
        if done.returncode and re.search(r"ConnectionError|Could not connect|Max retries|timed out|HTTPError", words):
            raise NotCheckedError(f"the database does not answer: {words.splitlines()[-1]}")
        if done.returncode:
            raise CheckError(words[-3000:])


def main(arguments: list[str]) -> int:
    release = Release(Path(arguments[0]).resolve(), Path(arguments[1]).absolute())
    checks: list[tuple[str, Callable[[], None]]] = [
        ("the changelog has the version", release.changelog),
        ("the metadata name the repository", release.repository),
        ("everything is committed", release.clean),
        ("the version's tag is free or here", release.tag),
        ("CITATION.cff is valid and of this version", release.citation),
        ("workflows are valid", release.workflows),
        ("the sdist is complete", release.sdist),
        ("a wheel is built from the sdist (minutes)", release.wheel),
        ("PyPI would take both", release.metadata),
        ("no pinned requirement has a known vulnerability", release.vulnerabilities),
    ]
    failed = 0
    print(f"ulmfit_fast {release.version}")
    for what, check in checks:
        print(f"{what} ... ", end="", flush=True)
        try:
            check()
        except NotCheckedError as reason:
            print(f"NOT CHECKED: {reason}")
        except CheckError as reason:
            print(f"NO: {reason}")
            failed += 1
        else:
            print("yes")
    print(f"{failed} of {len(checks)} speak against a release" if failed else "nothing speaks against a release")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
