"""The steps that make .venv, for the Makefile; any supported Python runs this file by itself.

``python3 tools/setup_venv.py VENV STEP``, where STEP is

    run      make the environment; what the package needs to be built and run (requirements-run.txt)
    dev      what tests and checks need (requirements-dev.txt, requirements-fastai.txt)
    release  what `make release-check` needs (requirements-release.txt)
    wheel    what `make wheel` needs (requirements-wheel.txt)
    build    compile the native module, install the package and the language model "en" (editable)

or ``python3 tools/setup_venv.py --supported``: exit status 0 where this Python can run the package. Every step may be
interrupted and run again. pip's own configuration (PIP_*, pip.conf) holds; two things are added to it, each for one
call of this file. An http(s) index that does not answer within seconds is left out, as pip itself would go on without
it, but only after minutes of retries for every package. torch is looked for in its index of CPU builds, too, where no
CUDA build is wanted, as PyPI's torch for Linux brings gigabytes of CUDA. ULMFIT_FAST_CUDA=auto|0|1 (auto: CUDA where
there are a GPU and nvcc) chooses; ULMFIT_FAST_TORCH_INDEX names another index for torch, or none if it is empty.
"""

from __future__ import annotations

import ast
import glob
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
PYPI = "https://pypi.org/simple"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_SECONDS = 5.0


class SetupError(Exception):
    """What the user has to know, in one line."""


def supported_python(requirement: str, version: tuple[int, int]) -> bool:
    """Whether ``version`` is in a range such as ">=3.11,<3.14"."""
    lowest, above = (tuple(map(int, re.findall(r"\d+", bound))) for bound in requirement.split(","))
    return lowest <= version < above


def has_global_lock() -> bool:
    """False of a free-threaded Python, such as 3.14t, for which the package is not built."""
    return not sysconfig.get_config_var("Py_GIL_DISABLED")


def python_requirement() -> str:
    match = re.search(r'^requires-python = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert match is not None
    return match[1]


def check_machine() -> None:
    """What no package index brings, before anything is downloaded."""
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        raise SetupError(
            f"Python's headers are missing ({sysconfig.get_path('include')}/Python.h): install them "
            "(Debian, Ubuntu: python3-dev; Fedora: python3-devel)"
        )
    compiler = shlex.split(os.environ.get("CXX", "c++"))[0]
    if shutil.which(compiler) is None:
        raise SetupError(f"no C++ compiler ({compiler}): install one that knows C++20, such as GCC 12 (Debian: g++)")


def read_pip_settings(listing: str) -> dict[str, str]:
    """`pip config list` as {option: value}; the environment comes before [install], that before [global]."""
    ranked: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        key, separator, value = line.partition("=")
        section, _, option = key.partition(".")
        if separator and section in ranked and ast.literal_eval(value).strip():
            ranked[section][option] = ast.literal_eval(value)
    return ranked["global"] | ranked["install"] | ranked[":env:"]


def status_of(url: str, limit: float, proxy: str | None = None) -> int | None:
    """The HTTP status that a server gives within ``limit`` seconds; None where it gives none.

    In a thread, as the time to look up a name cannot be limited. Certificates are left to pip, which knows the user's.
    """
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # names and passwords stay here
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
    if proxy:
        handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
    found: list[int] = []

    def ask() -> None:
        try:
            with urllib.request.build_opener(*handlers).open(bare, timeout=limit) as answer:
                found.append(answer.status)
        except urllib.error.HTTPError as error:
            found.append(error.code)
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(limit)
    return found[0] if found else None


def statuses(urls: list[str], limit: float, proxy: str | None) -> dict[str, int | None]:
    """``status_of`` each, all at once."""
    answers: dict[str, int | None] = {}

    def ask(url: str) -> None:
        answers[url] = status_of(url, limit, proxy)

    threads = [threading.Thread(target=ask, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def wants_cuda(choice: str, has_nvcc: bool, has_gpu: bool) -> bool:
    if choice not in ("auto", "0", "1"):
        raise SetupError(f"ULMFIT_FAST_CUDA={choice}: expected auto, 0 or 1")
    return choice == "1" or (choice == "auto" and has_nvcc and has_gpu)


def machine_wants_cuda() -> bool:
    return wants_cuda(
        os.environ.get("ULMFIT_FAST_CUDA", "auto"),
        shutil.which("nvcc") is not None,
        bool(glob.glob("/dev/nvidia[0-9]*")),
    )


def torch_index(settings: dict[str, str], cuda: bool, platform: str, named: str | None) -> str | None:
    """The index to look for torch in beside pip's own, None for none."""
    if "no-index" in settings:
        return None
    if named is not None:
        return named or None
    own = f"{settings.get('index-url', '')} {settings.get('extra-index-url', '')}"
    if cuda or platform != "linux" or "download.pytorch.org" in own:  # the user has chosen; elsewhere PyPI's is CPU's
        return None
    return TORCH_CPU_INDEX


def choose_sources(
    settings: dict[str, str], cpu_index: str | None, limit: float = PROBE_SECONDS
) -> tuple[dict[str, str], str | None, list[str]]:
    """What answers of the indexes that pip would ask, and of torch's.

    Returns:
        Variables for pip's environment; the index for torch, or None; a line for the user for each index left out.
    """
    if "no-index" in settings:
        return {}, None, []
    own = [settings.get("index-url", PYPI), *settings.get("extra-index-url", "").split()]
    remote = [url for url in own if urlsplit(url).scheme in ("http", "https")]
    pages = {url: f"{url.rstrip('/')}/{'torch' if url == cpu_index else 'pip'}/" for url in {*remote, cpu_index} if url}
    found = statuses(list(pages.values()), limit, settings.get("proxy"))
    lines, variables = [], {}
    silent = [url for url in remote if found[pages[url]] is None]
    if silent:
        lines += [f"{hide_password(url)} does not answer: left out" for url in silent]
        left = [url for url in own if url not in silent]
        if left:
            # Blanks, as pip takes an empty variable for none and would read its files.
            variables = {"PIP_INDEX_URL": left[0], "PIP_EXTRA_INDEX_URL": " ".join(left[1:]) or " "}
        elif "find-links" in settings:
            variables = {"PIP_NO_INDEX": "1"}
        else:
            raise SetupError(
                f"{hide_password(own[0])} does not answer: is there a network, a proxy (HTTPS_PROXY), "
                "a mirror (PIP_INDEX_URL)? The same command goes on from here"
            )
    if cpu_index is not None and found[pages[cpu_index]] != 200:
        lines.append(f"{hide_password(cpu_index)} does not answer: torch comes from where pip is configured to look")
        if not silent and own == [PYPI] and "find-links" not in settings:
            lines.append("from PyPI that is the CUDA build: gigabytes")
        cpu_index = None
    return variables, cpu_index, lines


def hide_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


class Environment:
    """A virtual environment that this file makes and fills."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.log = folder / "setup.log"
        self.variables = os.environ | {
            "PATH": f"{(folder / 'bin').absolute()}{os.pathsep}{os.environ.get('PATH', '')}",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",  # nobody would see the question
            "PIP_USER": "0",  # which has no meaning in an environment, and fails there
        }

    def make(self) -> None:
        """The bare environment with pip, unless it is there."""
        if self.python.exists():
            version = self.ask("-c", "import sys; print('{}.{}'.format(*sys.version_info))")
            there, here = (version or "").strip(), "{}.{}".format(*sys.version_info)
            if there and there != here:
                raise SetupError(
                    f"{self.folder} is of Python {there}, {sys.executable} is {here}: `make clean`, or "
                    f"`make PYTHON=python{there} ...`"
                )
            if version is not None and self.ask("-m", "pip", "--version") is not None:
                return
        clear = ["--clear"] if (self.folder / "pyvenv.cfg").exists() else []  # what an interruption left
        made = subprocess.run(
            [sys.executable, "-m", "venv", *clear, str(self.folder)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise SetupError(
                f"{sys.executable} -m venv failed (Debian, Ubuntu: install python3-venv): "
                + (made.stdout + made.stderr).strip()
            )

    def ask(self, *arguments: str) -> str | None:
        """What the environment's Python prints; None where it fails."""
        try:
            answer = subprocess.run(
                [self.python, *arguments], env=self.variables, capture_output=True, text=True, check=False
            )
        except OSError:
            return None
        return answer.stdout if answer.returncode == 0 else None

    def pip(self, what: str, *arguments: str) -> None:
        """`pip install` under one line of ours, pip's own words in a file that is shown if it fails."""
        command = [str(self.python), "-m", "pip", "install", *arguments]
        print(f"{what} ... ", end="", flush=True)
        start = time.monotonic()
        with self.log.open("w", encoding="utf-8") as log:
            done = subprocess.run(command, env=self.variables, stdout=log, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            print("failed")
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise SetupError(
                "\n".join([*lines[-40:], f"this failed ({self.log} has all of it): {shlex.join(command)}"])
            )
        print(f"{time.monotonic() - start:.0f} s", flush=True)

    def read_settings(self) -> dict[str, str]:
        return read_pip_settings(self.ask("-m", "pip", "config", "list") or "")


def wheels_only(settings: dict[str, str]) -> list[str]:
    """Options for an error at once where a pinned release has no wheel, instead of an hour of compiling."""
    return [] if {"only-binary", "no-binary"} & settings.keys() else ["--only-binary", ":all:"]


def install(environment: Environment, step: str) -> None:
    settings = environment.read_settings()
    index = None
    if step == "run":
        index = torch_index(settings, machine_wants_cuda(), sys.platform, os.environ.get("ULMFIT_FAST_TORCH_INDEX"))
    variables, index, lines = choose_sources(settings, index)
    print(*lines, sep="\n", end="\n" * bool(lines), flush=True)
    environment.variables |= variables
    options = wheels_only(settings)
    if step == "run":
        requirements = (ROOT / "requirements-run.txt").read_text(encoding="utf-8")
        torch = re.search(r"^torch==\S+", requirements, re.M)
        assert torch is not None
        kind, extra = (
            ("the CPU build, 200 MB", ["--extra-index-url", index]) if index else ("200 MB; with CUDA, 3 GB", [])
        )
        environment.pip(f"{torch[0].replace('==', ' ')} ({kind})", *options, *extra, torch[0])
        environment.pip("what the package needs beside it (150 MB)", *options, "-r", str(ROOT / "requirements-run.txt"))
    elif step == "dev":
        environment.pip("what tests and checks need (80 MB)", *options, "-r", str(ROOT / "requirements-dev.txt"))
        fastai = str(ROOT / "requirements-fastai.txt")
        environment.pip("fastai, which tests compare with", *options, "--no-deps", "-r", fastai)
    else:
        what = {"release": "what the check of a release needs", "wheel": "what repairs a wheel"}[step]
        environment.pip(what, *options, "-r", str(ROOT / f"requirements-{step}.txt"))


def main(arguments: list[str]) -> int:
    requirement = python_requirement()
    supported = supported_python(requirement, sys.version_info[:2]) and has_global_lock()
    if arguments == ["--supported"]:
        return 0 if supported else 1
    folder, step = arguments
    environment = Environment(Path(folder))
    try:
        if not supported:
            raise SetupError(
                f"Python {requirement} is needed, {sys.executable} is {sys.version_info[0]}.{sys.version_info[1]}"
                f"{'' if has_global_lock() else ' without a global lock, which is not supported'}: "
                "make PYTHON=python3.12 ..."
            )
        if step == "build":
            what = "compiling the kernels, about 2 minutes on 2 free cores"
            packages = [option for path in (ROOT, ROOT / "models" / "en") for option in ("--editable", str(path))]
            environment.pip(what, "--no-build-isolation", "--no-deps", *packages)
            return 0
        if step == "run":
            check_machine()
        environment.make()
        install(environment, step)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
