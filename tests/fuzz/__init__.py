"""Hostile input: random damage to everything the package reads, case after case, in processes of their own.

``python -m tests.fuzz`` runs it (``make fuzz``); ``test_smoke.py`` is its beginning; ``test_finds.py`` keeps what it
has found.
"""

SURFACES = {
    name: f"tests.fuzz.{name}:{kind}"
    for name, kind in {
        "models": "Models", "checkpoints": "Checkpoints", "corpora": "Corpora", "tables": "Tables",
        "requests": "Requests", "imports": "Imports", "operations": "Operations",
    }.items()
}  # fmt: skip
