"""How `make` sets itself up: which package indexes pip asks where some answer, some refuse and some hang."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scripts import script

ROOT = Path(__file__).parents[1]
setup_venv = script("setup_venv")

LIMIT = 2.0


class _Index(http.server.BaseHTTPRequestHandler):
    """Has torch under /cpu, wants a password under /private, knows nothing else; remembers what it was asked."""

    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        self.send_response({"/cpu/torch/": 200, "/private/pip/": 401}.get(self.path, 404))
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def asked() -> list[tuple[str, str | None]]:
    return []


@pytest.fixture
def server(asked: list[tuple[str, str | None]]) -> Iterator[str]:
    handler = type("Index", (_Index,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def hanging() -> Iterator[str]:
    """Takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/simple"


@pytest.fixture
def refusing() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/simple"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_an_index_that_answers_is_asked_for_torch(server: str) -> None:
    settings = {"index-url": f"http://{server}/simple"}
    assert setup_venv.choose_sources(settings, f"http://{server}/cpu", LIMIT) == ({}, f"http://{server}/cpu", [])


def test_an_index_without_torch_is_none(server: str) -> None:
    """A portal that answers every address is no better."""
    _, index, lines = setup_venv.choose_sources({"index-url": f"http://{server}/x"}, f"http://{server}/other", LIMIT)
    assert index is None
    assert len(lines) == 1
    assert "torch comes from where pip is configured to look" in lines[0]


@pytest.mark.parametrize("kind", ["hanging", "refusing"])
def test_a_torch_index_that_does_not_answer_costs_the_limit_once(
    kind: str, server: str, request: pytest.FixtureRequest
) -> None:
    start = time.monotonic()
    variables, index, lines = setup_venv.choose_sources(
        {"index-url": f"http://{server}/simple"}, request.getfixturevalue(kind), LIMIT
    )
    assert time.monotonic() - start < 5 * LIMIT
    assert (variables, index, len(lines)) == ({}, None, 1)


def test_silent_indexes_of_the_user_are_left_out_and_named(server: str, hanging: str, refusing: str) -> None:
    """All are asked at once, and what answers stays in its order, whatever it answers; a folder is not asked."""
    start = time.monotonic()
    settings = {
        "index-url": hanging,
        "extra-index-url": f"file:///wheels\n{refusing} http://{server}/private http://{server}/none",
    }
    variables, index, lines = setup_venv.choose_sources(settings, None, LIMIT)
    assert time.monotonic() - start < 5 * LIMIT
    assert variables == {
        "PIP_INDEX_URL": "file:///wheels",
        "PIP_EXTRA_INDEX_URL": f"http://{server}/private http://{server}/none",
    }
    assert index is None
    assert [line.split()[0] for line in lines] == [hanging, refusing]


def test_pip_reads_the_variables_so(
    tmp_path: Path, server: str, refusing: str, asked: list[tuple[str, str | None]]
) -> None:
    """In a file of pip's an index that is silent: with the variables pip asks for none of its pages."""
    file = tmp_path / "pip.conf"
    file.write_text(f"[global]\nindex-url = http://{server}/simple\nextra-index-url = {refusing}\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    environment |= {"PIP_CONFIG_FILE": str(file), "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1"}
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    pip = [sys.executable, "-m", "pip"]

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*pip, *arguments], env=environment | variables, capture_output=True, text=True, check=False
        )

    settings = setup_venv.read_pip_settings(run("config", "list").stdout)
    assert settings["extra-index-url"] == refusing
    variables, _, _ = setup_venv.choose_sources({**settings, "index-url": f"http://{server}/simple"}, None, LIMIT)
    assert variables == {"PIP_INDEX_URL": f"http://{server}/simple", "PIP_EXTRA_INDEX_URL": " "}
    asked.clear()
    download = ("download", "--no-deps", "-d", str(tmp_path), "a-package-that-nobody-has")
    assert refusing in run(*download).stdout
    answer = run(*download, **variables)
    assert refusing not in answer.stdout + answer.stderr
    assert [path for path, _ in asked] == ["/simple/a-package-that-nobody-has/"] * 2


def test_no_index_answers(refusing: str) -> None:
    with pytest.raises(setup_venv.SetupError, match=f"{refusing} does not answer: is there a network"):
        setup_venv.choose_sources({"index-url": refusing}, None, LIMIT)
    settings = {"index-url": refusing, "find-links": "/wheels"}
    assert setup_venv.choose_sources(settings, None, LIMIT)[0] == {"PIP_NO_INDEX": "1"}


def test_no_password_is_sent_or_shown(server: str, refusing: str, asked: list[tuple[str, str | None]]) -> None:
    own = f"http://name:secret@{server}/private"
    silent = refusing.replace("http://", "http://name:secret@")
    variables, _, lines = setup_venv.choose_sources({"index-url": own, "extra-index-url": silent}, None, LIMIT)
    assert asked == [("/private/pip/", None)]
    assert lines == [f"{refusing} does not answer: left out"]
    assert variables["PIP_INDEX_URL"] == own  # pip itself needs it


def test_settings_of_files_and_environment() -> None:
    listing = (
        ":env:.extra-index-url='https://c'\n:env:.index-url=''\nglobal.extra-index-url='https://a\\nhttps://b'\n"
        "global.index-url='https://d'\ninstall.index-url='https://e'\nfreeze.timeout='10'\n"
    )
    assert setup_venv.read_pip_settings(listing) == {"extra-index-url": "https://c", "index-url": "https://e"}


@pytest.mark.parametrize(
    ("settings", "cuda", "platform", "named", "expected"),
    [
        ({}, False, "linux", None, "https://download.pytorch.org/whl/cpu"),
        ({"index-url": "https://mirror/simple"}, False, "linux", None, "https://download.pytorch.org/whl/cpu"),
        ({}, True, "linux", None, None),
        ({}, False, "darwin", None, None),
        ({"extra-index-url": "https://download.pytorch.org/whl/cu130"}, False, "linux", None, None),
        ({}, True, "linux", "https://mine/simple", "https://mine/simple"),
        ({}, False, "linux", "", None),
        ({"no-index": "1"}, False, "linux", "https://mine/simple", None),
    ],
)
def test_where_torch_is_looked_for(
    settings: dict[str, str], cuda: bool, platform: str, named: str | None, expected: str | None
) -> None:
    assert setup_venv.torch_index(settings, cuda, platform, named) == expected


def test_no_index_asks_nobody(refusing: str) -> None:
    assert setup_venv.choose_sources({"no-index": "1", "index-url": refusing}, None, LIMIT) == ({}, None, [])


@pytest.mark.parametrize(
    ("choice", "nvcc", "gpu", "expected"),
    [
        ("auto", True, True, True),
        ("auto", True, False, False),
        ("auto", False, True, False),
        ("0", True, True, False),
        ("1", False, False, True),
    ],
)
def test_who_wants_cuda(choice: str, nvcc: bool, gpu: bool, expected: bool) -> None:
    assert setup_venv.wants_cuda(choice, nvcc, gpu) is expected


def test_a_wrong_choice_of_cuda() -> None:
    with pytest.raises(setup_venv.SetupError, match="ULMFIT_FAST_CUDA=yes: expected auto, 0 or 1"):
        setup_venv.wants_cuda("yes", True, True)


def test_supported_pythons() -> None:
    inside = [v for v in ((3, 9), (3, 11), (3, 13), (3, 14), (4, 0)) if setup_venv.supported_python(">=3.11,<3.14", v)]
    assert inside == [(3, 11), (3, 13)]
    assert setup_venv.main(["--supported"]) == 0  # the tests' own Python


FREE_THREADED = """
import sysconfig
known = sysconfig.get_config_var
sysconfig.get_config_var = lambda name: 1 if name == "Py_GIL_DISABLED" else known(name)
"""


_AS_PROGRAM = "import runpy, sys; sys.argv = ['x', {1}]; runpy.run_path({0!r}, {{}}, '__main__')"


@pytest.mark.parametrize(
    ("program", "status", "said"),
    [
        ("import ulmfit_fast.ops", 1, "ImportError: ulmfit_fast does not run on Python without a global lock"),
        ("import ulmfit_fast; ulmfit_fast.WeightDropLSTM", 1, "does not run on Python without a global lock"),
        (_AS_PROGRAM.format("setup.py", "'build_ext'"), 1, "ulmfit_fast is not built for"),
        (_AS_PROGRAM.format("tools/setup_venv.py", "'--supported'"), 1, ""),
        (_AS_PROGRAM.format("tools/setup_venv.py", "'v', 'run'"), 1, "without a global lock, which is not supported"),
    ],
)  # fmt: skip
def test_a_python_without_a_global_lock_is_refused(program: str, status: int, said: str) -> None:
    """As on 3.14t: a line that says so, not a module that is not found or that crashes."""
    done = subprocess.run(
        [sys.executable, "-c", FREE_THREADED + program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert said in done.stderr


def test_wheels_alone_unless_the_user_says_otherwise() -> None:
    assert setup_venv.wheels_only({}) == ["--only-binary", ":all:"]
    assert setup_venv.wheels_only({"no-binary": "pandas"}) == []


def test_an_environment_that_was_interrupted_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text("half")
    (folder / "bin" / "python").symlink_to(tmp_path / "gone")
    environment = setup_venv.Environment(folder)
    environment.make()
    assert environment.ask("-m", "pip", "--version") is not None
    marker = folder / "marker"
    marker.touch()
    environment.make()
    assert marker.exists()  # a whole one is left alone


def test_a_failing_pip_shows_its_last_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment = setup_venv.Environment(tmp_path)
    environment.python = Path(sys.executable)
    with pytest.raises(setup_venv.SetupError, match=r"(?s)no such option.*setup\.log has all of it"):
        environment.pip("something", "--no-such-option")
    assert capsys.readouterr().out == "something ... failed\n"


def test_the_first_minute_needs_what_the_package_needs() -> None:
    """Each dependency of the package is pinned for `make demo`, and nothing is pinned twice."""
    import tomllib

    def names(file: str) -> list[str]:
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        return [line.split("==")[0] for line in lines if not line.startswith("#")]

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs = {need.split(">=")[0] for need in [*project["dependencies"], *project["optional-dependencies"]["text"]]}
    run, dev, fastai = (names(f"requirements-{kind}.txt") for kind in ("run", "dev", "fastai"))
    assert needs <= set(run)
    assert len({*run, *dev, *fastai}) == len(run) + len(dev) + len(fastai)
