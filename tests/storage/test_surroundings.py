"""What surrounds files: modes, rights, links, full disks, names that are not UTF-8, others that write meanwhile."""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ulmfit_fast import AWDLSTM, AWDLSTMConfig, InputError, LanguageModel, TextClassifier, Tokenizer
from ulmfit_fast.core.atomic_write import write_atomically
from ulmfit_fast.storage.model_folder import load_classifier, load_language_model, read_config, save_model
from ulmfit_fast.storage.run_file import CHECKPOINT, load_state, save_state
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.text.token_file import TokenFile, write_token_file
from ulmfit_fast.training.history import History

FILES = ["config.json", "model.safetensors", "tokenizer.json", "labels.json"]


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.train_words(["one two three four"] * 3)


def make_classifier(tokenizer: Tokenizer, classes: int = 2, hidden_size: int = 6) -> TextClassifier:
    return TextClassifier(AWDLSTM(AWDLSTMConfig(len(tokenizer), 4, hidden_size, 2)), classes, hidden_size=5)


@pytest.fixture
def folder(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    save_model(tmp_path / "clf", make_classifier(tokenizer), tokenizer, SingleLabel(["a", "b"]))
    return tmp_path / "clf"


def test_files_have_the_umask_s_mode(tokenizer: Tokenizer, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_model(tmp_path / "clf", make_classifier(tokenizer), tokenizer, SingleLabel(["a", "b"]))
        save_state(tmp_path / "clf", {"a": torch.ones(3)})
        History([{"loss": 1.0}]).write(tmp_path / "clf")
        write_token_file(tmp_path / "clf" / "train.tokens", [np.arange(3)], 9)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "clf").iterdir()}
    assert len(modes) == 9
    assert set(modes.values()) == {0o640}


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("results.md", CHECKPOINT):
        (tmp_path / name).symlink_to(tmp_path / "elsewhere" / name)  # which is not there yet
    for version in (1, 2):
        write_atomically(tmp_path / "results.md", f"{version}")
        save_state(tmp_path, {"version": version})
        assert (tmp_path / "elsewhere" / "results.md").read_text() == f"{version}"
        assert load_state(tmp_path / "elsewhere") == {"version": version}
    assert all((tmp_path / name).is_symlink() for name in ("results.md", CHECKPOINT))
    assert len(list((tmp_path / "elsewhere").iterdir())) == 2


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: the system fails the write, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_names_the_file_and_leaves_the_old_one(folder: Path, tokenizer: Tokenizer) -> None:
    save_state(folder, {"a": torch.ones(9)})
    write_token_file(folder / "train.tokens", [np.arange(3)], 9)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    larger = make_classifier(tokenizer, hidden_size=500)
    writes: dict[str, Any] = {
        "model.safetensors.new": lambda: save_model(folder, larger, tokenizer, SingleLabel(["a", "b"])),
        CHECKPOINT: lambda: save_state(folder, {"a": torch.ones(99_999)}),
        "train.tokens": lambda: write_token_file(folder / "train.tokens", [np.ones(99_999, np.int64)], 9),
        "history.jsonl": lambda: write_atomically(folder / "history.jsonl", "x" * 99_999),
    }
    for name, write in writes.items():
        with full_disk(20_000), pytest.raises(OSError, match="File too large") as caught:
            write()
        assert caught.value.filename == str(folder / name)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.fixture
def readable_by_all() -> Iterator[Path]:
    """A folder that any user reaches, which pytest's are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def without_roots_rights() -> Iterator[None]:
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("name", FILES)
def test_what_may_not_be_read_is_not_called_damaged(name: str, tokenizer: Tokenizer, readable_by_all: Path) -> None:
    folder = readable_by_all / "clf"
    save_model(folder, make_classifier(tokenizer), tokenizer, SingleLabel(["a", "b"]))
    (folder / name).chmod(0)
    with without_roots_rights(), pytest.raises(InputError) as caught:
        load_classifier(folder)
    assert str(caught.value) == f"{folder / name}: cannot be read (Permission denied)"


def test_a_checkpoint_that_may_not_be_read(readable_by_all: Path) -> None:
    save_state(readable_by_all, {"a": 1})
    (readable_by_all / CHECKPOINT).chmod(0)
    with without_roots_rights(), pytest.raises(InputError) as caught:
        load_state(readable_by_all)
    assert str(caught.value) == f"{readable_by_all / CHECKPOINT}: cannot be read (Permission denied)"


def test_loading_writes_nothing(tokenizer: Tokenizer, readable_by_all: Path) -> None:
    folder = readable_by_all / "clf"
    save_model(folder, make_classifier(tokenizer), tokenizer, SingleLabel(["a", "b"]))
    folder.chmod(0o555)
    before = folder.stat().st_mtime_ns
    with without_roots_rights():
        load_classifier(folder)
    assert folder.stat().st_mtime_ns == before


def test_a_model_that_is_replaced_while_it_is_loaded(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """What is loaded is one model or the other, never files of both."""
    kinds = {6: ["a", "b"], 9: ["x", "y", "z"]}
    models = {size: make_classifier(tokenizer, len(labels), size) for size, labels in kinds.items()}
    ended = threading.Event()

    def replace() -> None:
        while not ended.is_set():
            for size, labels in kinds.items():
                save_model(tmp_path / "clf", models[size], tokenizer, SingleLabel(labels))
                time.sleep(0.01)

    save_model(tmp_path / "clf", models[6], tokenizer, SingleLabel(kinds[6]))
    writer = threading.Thread(target=replace)
    writer.start()
    seen = set()
    try:
        for _ in range(60):
            model, _, task = load_classifier(tmp_path / "clf")
            size = model.bpt3c.encoder.config.hidden_size
            assert task.labels == kinds[size]
            for name, tensor in models[size].state_dict().items():
                assert torch.equal(model.state_dict()[name], tensor)
            assert read_config(tmp_path / "clf")["kind"] == "classifier"
            seen.add(size)
    finally:
        ended.set()
        writer.join()
    assert seen == {6, 9}


def test_what_a_killed_replacement_left_behind(folder: Path) -> None:
    """Its error comes, after a while."""
    (folder / "config.json").rename(folder / "config.json.new")
    with pytest.raises(InputError, match=r"truncated one: config\.json is missing"):
        load_classifier(folder)


DAMAGE = {
    "a number of too many digits": "9" * 100_000,
    "nested too deeply": "[" * 200_000,
    "long": '{"format": "ulmfit_fast", "version": "' + "v" * 100_000 + '", "kind": "classifier", "encoder": {}}',
    "long name": '{"' + "k" * 100_000,
}


@pytest.mark.parametrize("name", ["config.json", "labels.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_json_that_python_refuses(damage: str, name: str, folder: Path) -> None:
    (folder / name).write_text(DAMAGE[damage])
    with pytest.raises(InputError) as caught:
        load_classifier(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("encoder", "hidden_size", 10**40),
        ("encoder", "hidden_size", 1 << 62),
        ("encoder", "vocab_size", 1 << 50),
        ("encoder", "num_layers", "3"),
        ("head", "hidden_size", 10**40),
        ("head", "bptt", None),
        ("head", "k" * 10_000, 1),
    ],
)
def test_sizes_that_no_model_has(part: str, name: str, value: Any, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config[part][name] = value
    (folder / "config.json").write_text(json.dumps(config))
    # A vocabulary of 2^50 rows could be one: it is the weights that do not fit. Nothing of that size is allocated.
    message = "not this model's weights" if value == 1 << 50 else f"config.json has a wrong {part}"
    with pytest.raises(InputError, match=message) as caught:
        load_classifier(folder)
    assert len(str(caught.value)) < 600


def test_weights_that_are_not_numbers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = LanguageModel(AWDLSTM(AWDLSTMConfig(len(tokenizer), 4, 6, 2)))
    with torch.no_grad():
        model.decoder_bias[3] = torch.nan
    save_model(tmp_path / "lm", model, tokenizer)
    with pytest.warns(UserWarning, match=r"model\.safetensors: decoder_bias holds NaN or infinite numbers"):
        load_language_model(tmp_path / "lm")


NOT_UTF8 = os.fsdecode(b"m\xe9\n")


def test_names_that_are_not_utf8(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = tmp_path / NOT_UTF8
    model = make_classifier(tokenizer)
    save_model(folder, model, tokenizer, SingleLabel(["a", "b"]), {"source": NOT_UTF8})
    save_state(folder, {"a": torch.ones(3)})
    assert json.loads((folder / "training_args.json").read_text()) == {"source": NOT_UTF8}
    loaded, _, _ = load_classifier(folder)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    state = load_state(folder)
    assert state is not None
    assert torch.equal(state["a"], torch.ones(3))
    assert stat.S_IMODE((folder / CHECKPOINT).stat().st_mode) == stat.S_IMODE((folder / "config.json").stat().st_mode)
    write_token_file(folder / "train.tokens", [np.arange(3)], 9, {"path": NOT_UTF8})
    assert TokenFile(folder / "train.tokens").source == {"path": NOT_UTF8}
