"""What other projects' programs wrote: pickles of tensors and vocabularies, archives of torch, SentencePiece models."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import safetensors.torch
import sentencepiece
import torch
from torch import Tensor

from tests.fuzz.models import damaged_tensors
from tests.fuzz.mutations import NUMBERS, any_json, any_text, damaged, damaged_json
from tests.fuzz.surface import Case, Surface
from ulmfit_fast.interop.fastai import import_language_model, read_plain, read_vocabulary, read_weights
from ulmfit_fast.interop.fastai_classifier import import_classifier
from ulmfit_fast.interop.multifit import import_multifit
from ulmfit_fast.text.rules import SPECIAL_TOKENS

# What a pickle that means harm would name; and what torch's reader itself knows.
GLOBALS = (
    "os system", "posix system", "nt system", "builtins eval", "builtins exec", "builtins __import__",
    "builtins getattr",
    "builtins open", "subprocess Popen", "subprocess check_output", "socket socket", "runpy run_path", "pty spawn",
    "importlib import_module", "webbrowser open", "shutil rmtree", "pathlib Path", "torch load", "torch.hub load",
    "torch.serialization load", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_meta_tensor_no_storage", "torch FloatStorage",
    "torch._utils _rebuild_qtensor", "torch._tensor _rebuild_from_type_v2", "collections OrderedDict",
    "torch.storage UntypedStorage", "torch Size", "torch device", "numpy dtype", "numpy.core.multiarray scalar",
    "numpy.core.multiarray _reconstruct", "fastcore.foundation L", "_codecs encode", "builtins bytearray",
    "operator attrgetter", "functools partial", "types CodeType", "types FunctionType", "marshal loads",
)  # fmt: skip
HARM = ("touch fuzz-was-here", "__import__('os').system('true')", "fuzz-was-here", "1", "os")


def language_model(qrnn: bool = False) -> dict[str, Tensor]:
    """The state of a tiny language model of fastai: 12 tokens, embedding 4, two layers of 6 and 4 units."""
    encoder = torch.randn(12, 4)
    state = {"0.encoder.weight": encoder, "0.encoder_dp.emb.weight": encoder}
    for i, (inputs, hidden) in enumerate(((4, 6), (6, 4))):
        if qrnn:
            window = 2 if i == 0 else 1
            state |= {f"0.rnns.{i}.layers.0.linear.weight_raw": torch.randn(3 * hidden, window * inputs)}
            state |= {f"0.rnns.{i}.layers.0.linear.bias": torch.randn(3 * hidden)}
            continue
        state |= {f"0.rnns.{i}.weight_hh_l0_raw": torch.randn(4 * hidden, hidden)}
        sizes = {"weight_ih_l0": (4 * hidden, inputs), "weight_hh_l0": (4 * hidden, hidden)}
        sizes |= {"bias_ih_l0": (4 * hidden,), "bias_hh_l0": (4 * hidden,)}
        state |= {f"0.rnns.{i}.module.{name}": torch.randn(size) for name, size in sizes.items()}
    return state | {"1.decoder.weight": encoder, "1.decoder.bias": torch.randn(12)}


def classifier() -> dict[str, Tensor]:
    body = {k.replace("0.", "0.module.", 1): v for k, v in language_model().items() if k.startswith("0.")}
    head: dict[str, Tensor] = {}
    for i, (inputs, outputs) in enumerate(((12, 5), (5, 2))):
        head |= {f"1.layers.{i}.0.{n}": torch.rand(inputs) for n in ("weight", "bias", "running_mean", "running_var")}
        head |= {
            f"1.layers.{i}.0.num_batches_tracked": torch.tensor(3),
            f"1.layers.{i}.2.weight": torch.randn(outputs, inputs),
        }
    return body | head


class Imports(Surface):
    name = "imports"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        torch.manual_seed(0)
        states = {"lm": language_model(), "classifier": classifier(), "qrnn": language_model(qrnn=True)}
        states["half"] = {name: tensor.half() for name, tensor in states["lm"].items()}
        self.weights: list[tuple[str, bytes]] = []
        for kind, state in states.items():
            for legacy in (False, True):
                for content in (
                    state,
                    {"model": state, "opt": {"state": [{"mom": torch.zeros(3)}], "hypers": [1, 0.9]}},
                ):
                    file = io.BytesIO()
                    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
                    self.weights.append((kind, file.getvalue()))
        self.tensors = [
            (kind, safetensors.torch.save({k: v.clone() for k, v in x.items()})) for kind, x in states.items()
        ]
        self.words = [*SPECIAL_TOKENS, "the", "film", "was"]
        self.pieces = _sentencepiece_model(folder)

    def case(self, random: Random) -> Case:
        kind, weights, suffix = self._weights(random)
        words = self._vocabulary(random)
        pieces = damaged(random, self.pieces) if random.random() < 0.5 else self.pieces
        labels = json.dumps(["bad", "good"] if random.random() < 0.5 else any_json(random)).encode()
        paths = {
            name: self.folder / f"{name}{end}"
            for name, end in (("weights", suffix), ("words", words[0]), ("pieces", ".model"), ("labels", ".json"))
        }
        for name, data in (("weights", weights), ("words", words[1]), ("pieces", pieces), ("labels", labels)):
            paths[name].write_bytes(data)
        self.size = len(weights) + len(words[1])
        way = random.randrange(4)
        return lambda: self._import(kind, way, paths)

    def _weights(self, random: Random) -> tuple[str, bytes, str]:
        if random.random() < 0.15:
            kind, data = random.choice(self.tensors)
            return kind, damaged_tensors(random, data), ".safetensors"
        kind, data = random.choice(self.weights)
        match random.randrange(4):
            case 0:
                data = damaged(random, data)
            case 1 if data.startswith(b"PK"):
                data = _other_pickle(random, data)
            case 2:
                data = _archive(any_pickle(random, torch_ids=True)) if random.random() < 0.7 else any_pickle(random)
            case _ if data.startswith(b"PK"):
                data = _archive_of(random, data)
            case _:
                data = damaged(random, data)
        return kind, data, random.choice((".pth", ".pth", ".h5", ".bin"))

    def _vocabulary(self, random: Random) -> tuple[str, bytes]:
        match random.randrange(5):
            case 0:
                return ".pkl", any_pickle(random)
            case 1:
                return ".pkl", damaged(random, pickle.dumps(self.words, random.randrange(6)))
            case 2:
                return ".json", json.dumps(damaged_json(random, self.words)).encode()
            case 3:
                return ".txt", damaged(random, "\n".join(self.words).encode())
        return ".json", json.dumps(self.words).encode()

    def _import(self, kind: str, way: int, paths: dict[str, Path]) -> None:
        if way == 0:
            read_weights(paths["weights"])
        elif way == 1:
            read_vocabulary(paths["words"])
            read_plain(paths["labels"])
        elif kind == "classifier":
            import_classifier(paths["weights"], paths["words"], paths["labels"])
        elif kind == "qrnn":
            trained = import_multifit(paths["weights"], paths["pieces"], paths["words"] if way == 2 else None)
            list(trained.tokenizer.encode(["the film was", ""]))
        else:
            trained = import_language_model(paths["weights"], paths["words"], "word" if way == 2 else "whitespace")
            list(trained.tokenizer.encode(["the film was", ""]))


def _sentencepiece_model(folder: Path) -> bytes:
    text = folder / "spm.txt"
    text.write_text("\n".join(["the film was great and fine", "a dull story of poor people"] * 30))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "spm"), vocab_size=29, minloglevel=2, unk_piece="xxunk", pad_id=1,
        unk_id=0, bos_id=2, eos_id=-1, bos_piece="xxbos", pad_piece="xxpad", user_defined_symbols=["xxfld", "xxrep"],
    )  # fmt: skip
    return (folder / "spm.model").read_bytes()


def _archive(pickled: bytes) -> bytes:
    """A file of torch with this pickle, and two storages."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        for name in "01":
            archive.writestr(f"archive/data/{name}", bytes(64))
    return file.getvalue()


def _other_pickle(random: Random, data: bytes) -> bytes:
    """A file of torch whose pickle has damage, with checksums that fit."""
    return _changed(data, lambda name, content: damaged(random, content) if name.endswith("data.pkl") else content)


def _archive_of(random: Random, data: bytes) -> bytes:
    """A file of torch whose numbers (of sizes, strides, offsets, storages) are others, or whose members are."""
    source = zipfile.ZipFile(io.BytesIO(data))
    victim = random.choice(source.namelist())
    if random.random() < 0.7:
        return _changed(
            data, lambda name, content: _other_numbers(random, content) if name.endswith(".pkl") else content
        )
    return _changed(data, lambda name, content: damaged(random, content) if name == victim else content,
                    random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))  # fmt: skip


def _changed(data: bytes, change: Any, method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(file, "w", method) as archive:
        for name in source.namelist():
            archive.writestr(name, change(name, source.read(name)))
    return file.getvalue()


def _other_numbers(random: Random, pickled: bytes) -> bytes:
    """A pickle with some of its whole numbers exchanged."""
    pieces: list[bytes] = []
    operations = list(pickletools.genops(pickled))
    ends = [operation[2] for operation in operations[1:]] + [len(pickled)]
    share = random.choice((0.01, 0.05, 0.3))
    for (operation, _, place), end in zip(operations, ends, strict=True):
        piece = pickled[place:end]  # type: ignore[index]
        if operation.name in ("BININT", "BININT1", "BININT2", "LONG1") and random.random() < share:
            piece = _number(random.choice((*NUMBERS[:20], random.randrange(100), random.randrange(1 << 20))))
        pieces.append(piece)
    return b"".join(pieces)


def _number(value: Any) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def any_pickle(random: Random, torch_ids: bool = False) -> bytes:
    """A pickle of random operations, some of which name what would do harm, were it called."""
    out = [b"\x80\x02" if torch_ids else random.choice((b"", b"\x80\x02", b"\x80\x04"))]
    for _ in range(random.randrange(1, 40)):
        match random.randrange(16):
            case 0 | 1:
                module, name = random.choice(GLOBALS).split()
                out.append(f"c{module}\n{name}\n".encode())
            case 2:
                text = random.choice((*HARM, any_text(random))).encode("utf-8", "surrogatepass")
                out.append(b"X" + struct.pack("<I", len(text)) + text)
            case 3:
                out.append(_number(random.choice(NUMBERS)))
            case 4 | 5:
                out.append(b"R")  # calls
            case 6:
                out.append(random.choice((b"\x81", b"b", b"o", b"\x92", b"i")))  # makes, changes
            case 7:
                out.append(b"(" + b"".join(_number(random.choice(NUMBERS)) for _ in range(random.randrange(4))) + b"t")
            case 8:
                out.append(random.choice((b"}", b"]", b")", b"N", b"\x88", b"(", b"0", b"2", b"\x8f")))
            case 9:
                out.append(random.choice((b"s", b"u", b"a", b"e", b"t", b"d", b"l", b"\x85", b"\x86", b"\x87", b"1")))
            case 10:
                out.append(random.choice((b"q", b"h")) + bytes([random.randrange(4)]))
            case 11 if torch_ids:  # a storage
                out.append(
                    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00"
                    + random.choice((b"0", b"1", b"9")) + b"X\x03\x00\x00\x00cpu"
                    + _number(random.choice(NUMBERS[:20])) + b"tQ"
                )  # fmt: skip
            case 12:  # a whole call
                module, name = random.choice(GLOBALS).split()
                text = random.choice(HARM).encode()
                out.append(f"c{module}\n{name}\n(X".encode() + struct.pack("<I", len(text)) + text + b"tR")
            case 13:  # a length that the pickle does not have
                out.append(
                    random.choice((b"X", b"B", b"\x8d", b"\x8e", b"\x8b")) + struct.pack("<Q", random.getrandbits(40))
                )
            case _:
                out.append(random.randbytes(1))
    return b"".join(out) + b"."
