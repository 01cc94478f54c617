"""The examples and README's code run as they stand, each in a process of its own, and print what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def run(arguments: list[str], folder: Path) -> str:
    """Standard output of a Python process. One thread, as the models are small."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    paths = [str(ROOT / argument) if argument.startswith("examples/") else argument for argument in arguments]
    result = subprocess.run(
        [sys.executable, *paths], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def number(pattern: str, output: str) -> float:
    found = re.search(pattern, output)
    assert found is not None, output
    return float(found[1])


def test_there_are_six_short_ones() -> None:
    assert len(EXAMPLES) == 6
    assert {
        path.name: len(path.read_text().splitlines()) for path in EXAMPLES if len(path.read_text().splitlines()) > 40
    } == {}


def test_the_layer_in_a_training_loop(tmp_path: Path) -> None:
    assert number(r"accuracy on new sequences ([\d.]+)", run(["examples/drop_in_lstm.py"], tmp_path)) > 0.85


def test_a_classifier_from_texts_is_saved_and_loaded(tmp_path: Path) -> None:
    output = run(["examples/classify_texts.py", str(tmp_path)], tmp_path)
    assert number(r"accuracy on the training texts: ([\d.]+)", output) == 1
    assert [line.split()[0] for line in output.splitlines()[1:]] == ["weather", "food"]
    assert (tmp_path / "classifier" / "model.safetensors").exists()


def test_a_classifier_from_a_table(tmp_path: Path) -> None:
    output = run(["examples/classify_csv.py"], tmp_path)
    assert number(r"accuracy on 100 new reviews: ([\d.]+)", output) > 0.85


def test_a_streamed_document_is_predicted_as_at_once(tmp_path: Path) -> None:
    assert "the same as the whole document at once: True" in run(["examples/stream_document.py"], tmp_path)


def test_a_callback_and_a_loop_of_ones_own(tmp_path: Path) -> None:
    output = run(["examples/own_training.py"], tmp_path)
    assert len(re.findall(r"epoch \d: perplexity", output)) == 2
    assert number(r"loss of the own loop after \d+ steps of text: ([\d.]+)", output) < 5  # log of 187 words: 5.2


def test_readmes_code_prints_about_what_readme_says(tmp_path: Path) -> None:
    """Rounding differs between processors, and a training with it: the accuracy may, too, by a few texts."""
    blocks = re.findall(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", README, re.DOTALL)
    (first, said), (second, said_then), (layer, nothing) = blocks
    output = run(["-c", first + second], tmp_path)  # the second uses what the first has read
    said += said_then
    found, expected = (re.findall(r"right: ([\d.]+)", text) for text in (output, said))
    assert len(found) == len(expected) == 2
    assert list(map(float, found)) == pytest.approx(list(map(float, expected)), abs=0.08)
    assert re.findall(r"\['\w+' '\w+'\]", output) == re.findall(r"\['\w+' '\w+'\]", said)
    assert not nothing
    run(["-c", layer], tmp_path)
