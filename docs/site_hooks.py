"""What ``mkdocs`` does not do by itself: pages from outside ``docs``, and links that work in the source, too.

In the repository a link is relative to its file. On the site the folder ``docs`` is the root, and README.md is the home
page. Links are rewritten accordingly. A link to a file that is no page, such as a script, is shown as text; a link to
what does not exist is left alone, and mkdocs refuses it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "csrc/cpu/README.md", "benchmarks/results/*",
    "benchmarks/results/accuracy/*.md",
)  # fmt: skip
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]+)(#[^)\s]*)?\)|!\[([^\]]*)\]\(([^)#\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file():
                files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    path = Path(page.file.abs_src_path).relative_to(ROOT).as_posix()
    here = posixpath.dirname(page.file.src_uri)

    def rewritten(match: re.Match[str]) -> str:
        text, target, anchor, alternative, picture = match.groups()
        link = target or picture
        if ":" in link:
            return match[0]
        in_repository = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
        on_site = in_repository.removeprefix("docs/")
        if files.get_file_from_path(on_site) is None:
            return text if target and (ROOT / in_repository).exists() else match[0]
        address = posixpath.relpath(on_site, here or ".")
        return f"![{alternative}]({address})" if picture else f"[{text}]({address}{anchor or ''})"

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(rewritten, part) for part in parts)
