"""The documentation names what there is: links lead somewhere, code is Python, every public name has its reference."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import ulmfit_fast
from ulmfit_fast.training import callbacks

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "csrc" / "cpu" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "benchmarks").rglob("*.md")),
]  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere_and_code_is_python(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    assert [target for target in targets if ":" not in target and not (page.parent / target).exists()] == []
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        ast.parse(code)


def test_every_public_name_has_its_reference() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    described = {name.rpartition(".")[2] for name in re.findall(r"^::: ([\w.]+)", pages, re.MULTILINE)}
    named = re.search(r"members: \[(.*)\]", pages)
    assert named is not None
    described |= set(named[1].split(", "))
    of_callbacks = {
        name for name, kind in vars(callbacks).items()
        if isinstance(kind, type) and issubclass(kind, callbacks.Callback)
    }  # fmt: skip
    public = (set(ulmfit_fast.__all__) - {"ops"}) | set(ulmfit_fast.ops.__all__) | of_callbacks
    assert public - described == set()


def test_every_command_named_in_the_documentation_exists() -> None:
    from ulmfit_fast.cli.main import command

    known = {
        name: {flag for option in found.params for flag in (*option.opts, *option.secondary_opts)}
        for name in command.list_commands(None)  # type: ignore[arg-type]
        if (found := command.get_command(None, name)) is not None  # type: ignore[arg-type]
    }
    seen = 0
    for page in PAGES:
        if page.name[:2] == "20":  # results tell of commands as they were on that day
            continue
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in "\n".join(re.findall(r"```(?:\w*)\n(.*?)```", text, re.DOTALL)).splitlines():
            found_line = re.match(r"ulmfit-fast\s+([\w-]+)(.*)", line.partition("#")[0])
            if found_line is None:
                continue
            name, rest = found_line.groups()
            assert name in known, f"{page}: {line}"
            flags = set(re.findall(r"(?<!\S)--[\w-]+", rest))
            assert flags <= known[name], f"{page}: {line}: {flags - known[name]}"
            seen += 1
    assert seen > 20
