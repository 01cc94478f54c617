"""What fuzzing has found, each by its smallest input: a refusal in one line now."""

from __future__ import annotations

import io
import json
import resource
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from tests.fuzz.worker import Peak
from tests.tiny import PRETRAIN, make_task
from ulmfit_fast import InputError, Tokenizer, ULMFiTClassifier, ops, pretrain_lm
from ulmfit_fast.interop.fastai import read_plain, read_weights
from ulmfit_fast.storage.model_folder import load_classifier
from ulmfit_fast.storage.run_file import load_state, save_state
from ulmfit_fast.tasks.ordinal import Ordinal
from ulmfit_fast.text.corpus import Corpus, Source, tokenize_corpus
from ulmfit_fast.text.files import iterate_documents, read_documents
from ulmfit_fast.text.label_columns import LabelColumns
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.text.token_file import TokenFile, write_token_file
from ulmfit_fast.training import run

PREFIX, HEADER = struct.Struct("<8sII"), 4096


def with_header(path: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite a token file's header, with its checksum."""
    data = path.read_bytes()
    magic, length, _ = PREFIX.unpack_from(data)
    text = json.dumps(change(json.loads(data[PREFIX.size : PREFIX.size + length]))).encode()
    path.write_bytes((PREFIX.pack(magic, len(text), zlib.crc32(text)) + text).ljust(HEADER, b"\0") + data[HEADER:])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda header: 7, "its header is none of a token file"),
        (lambda header: [], "its header is none of a token file"),
        (lambda header: {}, "its header is none of a token file"),
        (lambda header: header | {"version": [1]}, "of another version"),
        *(
            (lambda header, name=name, value=value: header | {name: value}, f"a wrong {name}")
            for name, value in (
                ("dtype", "O"), ("dtype", "float64"), ("dtype", 0.5), ("tokens", "x"), ("tokens", -1), ("tokens", True),
                ("documents", {}), ("documents", 10**40), ("vocabulary", None), ("index_crc", []), ("source", 1.5),
            )
        ),
        (lambda header: {k: v for k, v in header.items() if k != "documents"}, "a wrong documents"),
    ],
)  # fmt: skip
def test_headers_of_token_files(change: Callable[[Any], Any], said: str, tmp_path: Path) -> None:
    write_token_file(tmp_path / "a.tokens", [np.arange(5)], 9)
    with_header(tmp_path / "a.tokens", change)
    with pytest.raises(InputError, match=said):
        TokenFile(tmp_path / "a.tokens")


@pytest.mark.parametrize("offsets", [[1, 5], [0, 4], [0, 9, 5], [0, -3, 5], [0, 1 << 60, 5]])
def test_documents_that_overlap_or_lie_beyond_the_file(offsets: list[int], tmp_path: Path) -> None:
    path = tmp_path / "a.tokens"
    write_token_file(path, [np.arange(3), np.arange(2)][: len(offsets) - 1] if len(offsets) > 2 else [np.arange(5)], 9)
    data = bytearray(path.read_bytes())
    at = HEADER + 16  # five ids of two bytes, up to the next eight
    data[at : at + 8 * len(offsets)] = np.array(offsets, np.int64).tobytes()
    path.write_bytes(data)
    index = zlib.crc32(data[at + 8 * len(offsets) :], zlib.crc32(data[at : at + 8 * len(offsets)]))
    with_header(path, lambda header: header | {"index_crc": index})
    with pytest.raises(InputError, match="documents do not lie one after the other"):
        TokenFile(path)


def test_ids_beyond_the_vocabulary(tmp_path: Path) -> None:
    """They were an IndexError of the embedding, in the middle of a training."""
    write_token_file(tmp_path / "a.tokens", [np.arange(5)], 9)
    with_header(tmp_path / "a.tokens", lambda header: header | {"vocabulary": 4})
    with pytest.raises(InputError, match="it has the id 4 of 4"):
        TokenFile(tmp_path / "a.tokens").read(0, 5)


def test_a_corpus_with_another_vocabulary_than_its_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(make_task(5)[0]))
    tokenize_corpus(Source(tmp_path / "a.txt", min_frequency=1), tmp_path / "corpus")
    with_header(tmp_path / "corpus" / "train.tokens", lambda header: header | {"vocabulary": 60_000})
    with pytest.raises(InputError, match="another vocabulary than tokenizer"):
        Corpus.load(tmp_path / "corpus")


@pytest.mark.parametrize("encoding", ["idna", "punycode"])
def test_encodings_that_pass_nothing_over(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text\n" + bytes(range(128, 256)))
    with pytest.raises(InputError, match=f"a.csv: .*not '{encoding}'"):
        read_documents(tmp_path / "a.csv", ReadOptions(encoding=encoding))


def test_a_label_column_without_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nx,y\n")
    with pytest.raises(InputError, match="no column ''"):
        read_documents(tmp_path / "a.csv", label_column="")


def test_parquet_texts_that_are_not_utf8(tmp_path: Path) -> None:
    binary = pyarrow.array([b"good", b"\xaa bad"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": binary}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: row 2: column 'text' holds bytes that are not UTF-8"):
        read_documents(tmp_path / "a.parquet")


def test_an_archive_with_a_member_without_a_name(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", "x")
    (tmp_path / "a.zip").write_bytes(file.getvalue().replace(b"a", b"\0"))
    with pytest.raises(InputError, match="no file that can be read"):
        read_documents(tmp_path / "a.zip")


CONFIGS: dict[str, Callable[[Any], Any]] = {
    "has an encoder": lambda c: c | {"encoder_type": ["awd_lstm"]},
    r"config\.json has a wrong encoder .*num_layers must be at most 1000": lambda c: (
        c | {"encoder": c["encoder"] | {"num_layers": 1 << 31}}
    ),
    r"config\.json has a wrong head .*pool_window": lambda c: c | {"head": c["head"] | {"pool_window": 0.5}},
    r"config\.json has a wrong head .*pool_window must be at least 1, .*got True": lambda c: (
        c | {"head": c["head"] | {"pool_window": True}}
    ),
    r"config\.json has a wrong head .*probability must be in \[0, 1\], got nan": lambda c: (
        c | {"head": c["head"] | {"hidden_dropout": float("nan")}}
    ),
    r"config\.json has a wrong encoder .*sizes and num_layers must be whole numbers": lambda c: (
        c | {"encoder": c["encoder"] | {"num_layers": True}}
    ),
    r"config\.json has a wrong head .*bptt": lambda c: c | {"head": c["head"] | {"bptt": 10**40}},
    "do not go with the task binary": lambda c: c | {"task_type": "binary", "head": c["head"] | {"classes": 1}},
    r"config\.json has a wrong task .*ordinal": lambda c: c | {"task_type": "ordinal"},
}


@pytest.mark.parametrize("said", CONFIGS)
def test_configurations_of_models(said: str, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "clf", tmp_path / "clf")
    path = tmp_path / "clf" / "config.json"
    path.write_text(json.dumps(CONFIGS[said](json.loads(path.read_text()))))
    if "binary" in said:
        (tmp_path / "clf" / "labels.json").write_text('["one"]')
    with pytest.raises(InputError, match=said):
        load_classifier(tmp_path / "clf")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([["a"], "b"], "neither a text nor a number"), ([None, "a"], "neither a text nor a number"),
        (["a", "a"], "holds a label twice"),
    ],
)  # fmt: skip
def test_labels_of_models(labels: list[Any], said: str, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "clf", tmp_path / "clf")
    (tmp_path / "clf" / "labels.json").write_text(json.dumps(labels))
    with pytest.raises(InputError, match=said):
        ULMFiTClassifier.load(tmp_path / "clf")


def test_an_ordinal_task_of_one_class() -> None:
    with pytest.raises(ValueError, match="two labels or more"):
        Ordinal([1])


class Stopped(BaseException):
    pass


CHECKPOINTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "it lacks epoch": lambda s: s.pop("epoch"),
    "KeyError|'arguments'": lambda s: s.pop("arguments"),
    "environment is no mapping": lambda s: s.update(environment=3),
    "epoch is 0.5": lambda s: s.update(epoch=0.5),
    "done.batches is 10000": lambda s: s["done"].update(batches=10**40),
    "best is 'x'": lambda s: s.update(best="x"),
    "scheduler.last_epoch is None": lambda s: s["scheduler"].update(last_epoch=None),
    "an epoch's loss is": lambda s: s["records"].append({"loss": "low"}),
    "not JSON serializable": lambda s: s["records"].append({"other": torch.ones(2)}),
    "a point of the loss curve is": lambda s: s["points"].append([1.0]),
    r"param_groups\[0\]\.lr is 1e\+200": lambda s: s["optimizer"]["param_groups"][0].update(lr=1e200),
    r"scheduler\.base_lrs\[0\] is 1e\+200": lambda s: s["scheduler"]["base_lrs"].__setitem__(0, 1e200),
    r"done\.parts of 'a' is True": lambda s: s["done"].update(parts={"a": True}),
    r"done\.parts of 'a' is \[0, 0\.0\]": lambda s: s["done"].update(parts={"a": [0, 0.0]}),
    "done.parts is no mapping|done.parts is": lambda s: s["done"].update(parts=3),
    "carried has the dtype torch.bfloat16": lambda s: s.update(
        carried=[[x.bfloat16() for x in layer] for layer in s["carried"]]
    ),
    "carried.* is no tensor": lambda s: s.update(carried=[[torch.zeros(2), torch.zeros(2)]] * 2),
    "exp_avg_sq does not go with its parameter": lambda s: s["optimizer"]["state"][0].pop("exp_avg_sq"),
    "exp_avg does not go": lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.zeros(1, 1)),
    "step does not go": lambda s: s["optimizer"]["state"][0].update(step=torch.tensor(float("nan"))),
    "the optimizer's weight_decay is 1844": lambda s: s["optimizer"]["param_groups"][0].update(weight_decay=1 << 64),
    "epoch is -1000000": lambda s: s.update(epoch=-1_000_000),
    "done.batches is -1": lambda s: s["done"].update(batches=-1),
    "the optimizer's foreach is another": lambda s: s["optimizer"]["param_groups"][0].update(foreach=torch.ones(2)),
    "the optimizer's fused is another": lambda s: s["optimizer"]["param_groups"][0].update(fused=False),
    "RNG state size": lambda s: s["torch_random"].update(cpu=torch.zeros(5, dtype=torch.uint8)),
    "state must be for a PCG64 RNG": lambda s: s["batches_random"].update(bit_generator="Other"),
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after some steps."""
    folder, written = tmp_path_factory.mktemp("stopped"), []

    def save(place: Path, state: dict[str, Any]) -> None:
        save_state(place, state)
        written.append(1)
        if len(written) == 4:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "save_state", save)
        with pytest.raises(Stopped):
            go_on(folder, resume=False)
    return folder


def go_on(folder: Path, resume: bool = True) -> Any:
    config = replace(PRETRAIN, epochs=1, checkpoint_minutes=1e-9)
    return pretrain_lm(make_task(20)[0], config, output=folder, resume=resume, progress=False)


@pytest.mark.parametrize("said", CHECKPOINTS)
def test_checkpoints_that_another_has_written(said: str, stopped: Path, tmp_path: Path) -> None:
    """With checksums that fit. They were taken over, and the training failed later, if at all."""
    state = load_state(stopped)
    assert state is not None
    CHECKPOINTS[said](state)
    shutil.copytree(stopped, tmp_path / "run")
    save_state(tmp_path / "run", state)
    (tmp_path / "run" / "model.safetensors").touch()  # the best so far, where there are records
    with pytest.raises(
        InputError, match=f"its checkpoint cannot be taken over .*({said}).*start again without --resume"
    ):
        go_on(tmp_path / "run")


def test_batch_sizes_whose_sum_is_too_large() -> None:
    """It was computed beyond int64, where it could be any number, the right one too."""
    sizes = torch.tensor([1 << 62] * 4 + [3, 2, 1])
    x, state = torch.randn(6, 5), torch.zeros(3, 7)
    with pytest.raises(ValueError, match="batch_sizes"):
        ops.lstm(x, sizes, state, state, torch.randn(28, 5), torch.randn(28, 7))


def test_a_pickle_that_numbers_a_memory_as_it_likes(tmp_path: Path) -> None:
    """Eleven bytes made the unpickler take gigabytes."""
    (tmp_path / "vocab.pkl").write_bytes(b"\x80\x02]r" + struct.pack("<I", 1 << 27) + b".")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_plain(tmp_path / "vocab.pkl") == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_a_pickle_that_tells_of_a_large_bytearray(tmp_path: Path) -> None:
    """Its memory was cleared, gigabytes, before anyone looked whether the file has as much."""
    (tmp_path / "vocab.pkl").write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 1 << 29) + b".")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="it holds a bytearray"):
        read_plain(tmp_path / "vocab.pkl")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_a_tensor_that_is_one_number_many_times(tmp_path: Path) -> None:
    """A file of a kilobyte must not make the reader compute on gigabytes."""
    torch.save({"0.encoder.weight": torch.ones(1).expand(1 << 15, 1 << 15)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"0\.encoder\.weight is larger than the memory it is stored in"):
        read_weights(tmp_path / "w.pth")


def test_no_tensor_beside_one_that_is_traced() -> None:
    """The dispatcher lets None pass for a tensor; the fake kernel raised an AttributeError."""
    weight = torch.zeros(28, 5, device="meta")
    with pytest.raises(TypeError, match=r"lstm_pack: weight_hh must be a tensor, got None"):
        ops.shared.native.lstm_pack(weight, None, None, torch.float32)


def test_a_name_in_json_that_is_half_a_character(tmp_path: Path) -> None:
    """pandas 3 keeps names of columns as UTF-8: an exception of its own."""
    (tmp_path / "a.jsonl").write_text('{"text": "one", "\\ud800": 1}\n{"text": "two", "\u00e9": 2}\n')
    (piece,) = iterate_documents(tmp_path / "a.jsonl")
    assert piece.texts == ["one", "two"]
    assert piece.table is not None
    assert list(piece.table) == ["text", "?", "\u00e9"]


def test_a_tokenizer_without_a_token_for_unknown_words(tmp_path: Path) -> None:
    """It was read, and the first unknown word ended the prediction with an exception of the library."""
    contents = json.loads(Tokenizer.train_whitespace(["one two"]).to_json())
    contents["model"]["unk_token"] = "other"
    (tmp_path / "tokenizer.json").write_text(json.dumps(contents))
    with pytest.raises(InputError, match=r"not a readable tokenizer\.json .*UNK"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_a_tokenizer_that_makes_its_library_panic(tmp_path: Path) -> None:
    """In Rust, of which Python gets no Exception: a normalizer's table in the base-64 of another."""
    contents = json.loads(Tokenizer.train_subwords(make_task(20)[0], 60).to_json())
    contents["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "CgAAAA=="}
    (tmp_path / "tokenizer.json").write_text(json.dumps(contents))
    with pytest.raises(InputError, match=r"not a readable tokenizer\.json"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_an_archive_of_a_later_version(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "x")
    data = bytearray(file.getvalue())
    data[data.index(b"PK\x01\x02") + 6] = 216  # the version that is needed to extract the file
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.zip: is an archive of a kind that is not known \(zip file version"):
        read_documents(tmp_path / "a.zip")


def test_label_columns_that_are_no_utf_8(tmp_path: Path) -> None:
    names = pyarrow.array([b"a", b"\xdb"], pyarrow.binary()).view(pyarrow.string())
    table = pyarrow.table({"text": ["one", "two"], "label": names})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="row 2: column 'label' holds bytes that are not UTF-8"):
        read_documents(tmp_path / "a.parquet", label_column=LabelColumns(("label",), ","))


def test_a_page_that_says_it_has_gigabytes(tmp_path: Path) -> None:
    """Room was made for them before anyone looked how much the file has."""
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"text {i}" for i in range(200)]}), file, compression="none")
    data = file.getvalue()
    # The first page's header in Thrift: its kind, then its length and its length as stored, each 15 and a number.
    start = data.index(b"PAR1") + 4
    assert data[start : start + 3] == b"\x15\x04\x15"
    length = 3 + next(i for i, byte in enumerate(data[start + 3 :]) if byte < 128) + 1
    stored = length + 1 + next(i for i, byte in enumerate(data[start + length + 1 :]) if byte < 128) + 1
    huge = b"\x15\x80\xc0\xbb\xbf\x0a"  # 1,408,728,000 or so, as Thrift writes it
    (tmp_path / "a.parquet").write_bytes(data[: start + length] + huge + data[start + stored :])
    peak = Peak()
    peak.begin()
    with pytest.raises(InputError, match="Page was smaller"):
        read_documents(tmp_path / "a.parquet")
    assert peak.grown() < 200 << 20


def test_a_checkpoint_without_metadata(tmp_path: Path) -> None:
    header = b'{"__metadata__": null}'
    (tmp_path / "checkpoint.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(InputError, match="not a checkpoint of this version"):
        load_state(tmp_path)
