"""The demo's corpus."""

from __future__ import annotations

import sys

from ulmfit_fast.demo import docstrings


def test_reads_without_importing(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    package = tmp_path / "area"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text('"""Ten words are needed for a text to be taken up here."""\nraise SystemExit')
    (package / "a.py").write_text(
        'class A:\n    def f(self):\n        """This  one has more than enough words to be\n        taken too."""\n'
        'def short():\n    """Too short."""\n'
    )
    (package / "broken.py").write_text("def (")
    (package / "tests" / "t.py").write_text('"""Tests are left out, however many words there are in this one."""')
    monkeypatch.setattr(docstrings, "_roots", lambda: iter([(package, ["area"])]))
    found = docstrings.read_docstrings()
    assert [(d.module, d.text) for d in found] == [
        ("area", "Ten words are needed for a text to be taken up here."),
        ("area.a", "This one has more than enough words to be\ntaken too."),
    ]
    assert "area" not in sys.modules
