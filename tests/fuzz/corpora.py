"""Corpus folders: token files whose header, index and ids are damaged, with checksums that fit or do not."""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from pathlib import Path
from random import Random

import numpy as np
import torch

from tests.fuzz.models import Files, damaged_file, files_of, write_anew
from tests.fuzz.mutations import damaged, damaged_json
from tests.fuzz.surface import Case, Surface
from tests.tiny import make_task
from ulmfit_fast.inference.prediction import evaluate_language_model
from ulmfit_fast.nn.awd_lstm import AWDLSTM, AWDLSTMConfig
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.text.batching import LanguageModelStream
from ulmfit_fast.text.corpus import Corpus, Source, tokenize_corpus
from ulmfit_fast.text.token_file import TokenFile, token_counts

_PREFIX, _HEADER = struct.Struct("<8sII"), 4096


def forged(random: Random, data: bytes) -> bytes:
    """A token file with other contents and checksums that fit: whoever makes a file by hand can compute them."""
    magic, length, _ = _PREFIX.unpack_from(data)
    header = json.loads(data[_PREFIX.size : _PREFIX.size + length])
    body = data[_HEADER:]
    if random.random() < 0.5:
        body = damaged(random, body)
    else:
        header = damaged_json(random, header)
    if isinstance(header, dict) and random.random() < 0.9:
        with contextlib.suppress(
            KeyError, TypeError, ValueError, OverflowError, MemoryError, SyntaxError
        ):  # of np.dtype
            body, header = _with_checks(header, body)
    text = json.dumps(header).encode()[: _HEADER - _PREFIX.size]
    return (_PREFIX.pack(magic, len(text), zlib.crc32(text)) + text).ljust(_HEADER, b"\0") + body


def _with_checks(header: dict, body: bytes) -> tuple[bytes, dict]:
    """The checksums of one block, and the index', as the header has their places."""
    size = header["tokens"] * np.dtype(header["dtype"]).itemsize
    offsets_at = -(-size // 8) * 8
    checks_at = offsets_at + 8 * (header["documents"] + 1)
    if not 0 < size <= checks_at < 1 << 20:
        return body, header
    body = body.ljust(checks_at + 4, b"\0")[: checks_at + 4]
    check = struct.pack("<I", zlib.crc32(body[:size]))
    index = zlib.crc32(check, zlib.crc32(body[offsets_at:checks_at]))
    return body[:checks_at] + check, header | {"index_crc": index}


class Corpora(Surface):
    name = "corpora"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        texts, _ = make_task(50)
        (folder / "texts.txt").write_text("\n\n".join(texts))
        corpus, _ = tokenize_corpus(Source(folder / "texts.txt", min_frequency=1), folder / "base")
        self.base: Files = files_of(folder / "base")
        torch.manual_seed(0)
        size = len(corpus.tokenizer)
        self.model = LanguageModel(AWDLSTM(AWDLSTMConfig(size, 6, 8, 2, pad_id=corpus.tokenizer.pad_id))).eval()
        self.place = folder / "corpus"

    def case(self, random: Random) -> Case:
        files = dict(self.base)
        name = random.choice(["train.tokens"] * 4 + sorted(files))
        if random.random() < 0.02:
            del files[name]
        elif name.endswith(".tokens") and random.random() < 0.8:
            files[name] = forged(random, files[name])
        else:
            files[name] = damaged_file(random, name, files[name])
        self.size = write_anew(self.place, files)
        return self._file if random.random() < 0.3 else self._corpus

    def _file(self) -> None:
        file = TokenFile(self.place / "train.tokens")
        ids = file.read(0, int(file.offsets[-1]))
        assert ids.dtype == np.int32
        assert ((ids >= 0) & (ids < file.vocabulary)).all()
        if file.vocabulary < 1 << 20:  # of a corpus' folder it is the tokenizer's
            token_counts(file, file.vocabulary)

    def _corpus(self) -> None:
        corpus = Corpus.load(self.place)
        corpus.checksum()
        if len(corpus.tokenizer) != self.model.encoder.vocab_size:  # as the stages see to
            return
        for _ in LanguageModelStream(corpus.train, 4, 10, True, True, seed=1).epoch():
            pass
        evaluate_language_model(self.model, corpus.valid or corpus.train, 10, 2)
