"""Language models that other projects trained: fastai's, and what else stores an AWD-LSTM as a dictionary of tensors.

Tensors are found by name, rows of the embedding by their token. Nothing is unpickled but plain containers of tensors,
texts and numbers.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError, shortened
from ulmfit_fast.nn.awd_lstm import AWDLSTM, AWDLSTMConfig
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.storage.model_folder import not_finite, rows_of_tokens
from ulmfit_fast.storage.tensor_file import read_tensors
from ulmfit_fast.text.rules import BOS, EOS, FLD, PAD, REP, UNK, UP, WREP
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training.history import History
from ulmfit_fast.training.trained import TrainedLanguageModel

_EMBEDDING = re.compile(r"(?:0\.)?(?:encoder|encoder_dp\.emb|encoder_with_dropout\.embed)\.weight")
_LAYER = re.compile(r"(?:0\.)?rnns\.(\d+)\.(?:module\.)?((?:weight_ih|weight_hh|bias_ih|bias_hh)_l0)(_raw)?")
_DECODER = re.compile(r"(?:1\.)?decoder\.(weight|bias)")
_QRNN = re.compile(r"(?:0\.)?(?:module\.)?rnns\.\d+\..*\blinear\..*")
_CLASSIFIER = re.compile(r"0\.module\.|1\.layers\.")
_AGAIN = re.compile(r"(?<=.) \d+$")  # of ``_each_once``
_SHARED = 16  # times as many bytes as in the file: float16, and an embedding under three names
_LAYER_TENSORS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
# Special tokens of fastai before version 1 and of the word-level corpora, and what they are here.
_OLD_NAMES = {
    "_unk_": UNK, "<unk>": UNK, "_pad_": PAD, "<pad>": PAD, "xbos": BOS, "<eos>": EOS, "xfld": FLD, "t_up": UP,
    "tk_rep": REP, "tk_wrep": WREP,
}  # fmt: skip


def import_language_model(
    weights: str | Path, vocabulary: str | Path | Sequence[str], tokenizer: str = "word", direction: str = "forward"
) -> TrainedLanguageModel:
    """A language model of another project, ready for ``finetune_lm``.

    Args:
        weights: fastai's ``.pth`` of a language model (``learn.save``, ``learn.save_encoder``, the published
            ``lstm_fwd.pth``), ``.h5`` of its versions before 1, or a ``.safetensors`` or a file of ``torch.save`` with
            the ``state_dict`` of a model whose tensors have those names, such as awd-lstm-lm's. Sizes are read off
            the tensors. An encoder alone gets a softmax bias of zero.
        vocabulary: the tokens in the order of the embedding's rows, or a file of them: fastai's ``.pkl``, a ``.json``
            list or mapping to rows, or a text file, a token a line (which cannot hold fastai's newline token).
        tokenizer: "word"; "spacy" for the very tokens of fastai (an extra); or "whitespace" for vocabularies of text
            that is tokenized already, as WikiText's; those keep ``<unk>`` and ``<eos>`` as words, too.
        direction: "forward", or "backward" for a model that was trained on texts from their end (fastai's
            ``backwards=True``, its ``lstm_bwd.pth``); nothing in the files tells.

    Returns:
        Model, tokenizer and an empty history. Its first tokens are the special ones of ``Tokenizer``; those that the
        vocabulary lacks start from the mean of all. Of a token that occurs twice (fastai pads with them) the first
        counts; the others keep their rows, and no text has them.

    Raises:
        InputError: files that are missing, damaged, hold objects that would have to be unpickled, or are of another
            model: a QRNN, a classifier, an LSTM without tied weights, another vocabulary.
    """
    tensors = EncoderTensors.find(str(weights), read_weights(Path(weights)))
    encoder, backend, row_of = encoder_of(str(weights), tensors, vocabulary, tokenizer)
    model = LanguageModel(encoder)
    model.decoder_bias.data = rows_of_tokens(tensors.bias, row_of, backend.vocabulary)
    return TrainedLanguageModel(model.eval(), backend.reading(direction), History())


def encoder_of(
    source: str, tensors: EncoderTensors, vocabulary: str | Path | Sequence[str], tokenizer: str
) -> tuple[AWDLSTM, Tokenizer, dict[str, int]]:
    """The encoder in the order of our vocabulary, the tokenizer, and the file's row of each token."""
    given = "vocabulary" if not isinstance(vocabulary, str | Path) else str(vocabulary)
    words = read_vocabulary(Path(vocabulary)) if isinstance(vocabulary, str | Path) else _as_words(given, vocabulary)
    rows = len(tensors.embedding)
    if len(words) != rows:
        raise InputError(
            f"{given}: has {len(words):,} tokens, the embedding in {source} {rows:,} rows; they do not belong together"
        )
    words = _each_once(words)
    row_of = {word: row for row, word in enumerate(words)}
    for word, name in _OLD_NAMES.items():
        if word in row_of:
            row_of[name] = min(row_of[word], row_of.get(name, rows))
    kept = [word for word in words if word not in _OLD_NAMES or tokenizer == "whitespace"]
    backend = _spacy(kept) if tokenizer == "spacy" else Tokenizer.from_vocabulary(kept, tokenizer)
    hidden = tensors.layers[0]["weight_hh_l0"].shape[1]
    config = AWDLSTMConfig(len(backend), tensors.embedding.shape[1], hidden, len(tensors.layers), pad_id=backend.pad_id)
    encoder = AWDLSTM(config)
    state = {"encoder.weight": rows_of_tokens(tensors.embedding, row_of, backend.vocabulary)}
    for i, layer in enumerate(tensors.layers):
        state |= {f"rnns.{i}.{name}": tensor for name, tensor in layer.items()}
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"{source}: its layers are not those of an AWD-LSTM with tied weights ({shortened(error, 300)})"
        ) from None
    return encoder, backend, row_of


def _spacy(words: Sequence[str]) -> Tokenizer:
    from ulmfit_fast.text.spacy_tokenizer import SpacyTokenizer  # an extra

    return SpacyTokenizer(words)


def _each_once(words: Sequence[str]) -> list[str]:
    """What comes again gets its number behind a space, which no tokenizer leaves in a token."""
    seen: dict[str, int] = {}
    names = []
    for word in words:
        seen[word] = count = seen.get(word, 0) + 1
        names.append(word if count == 1 else f"{word} {count}")
    return names


def fastai_vocabulary(tokenizer: Tokenizer) -> list[str]:
    """The tokens in the order of their ids as fastai has them: what it fills vocabularies up with comes again."""
    return [_AGAIN.sub("", word) for word in tokenizer.vocabulary]


class EncoderTensors(NamedTuple):
    """What a file holds of an AWD-LSTM and its softmax."""

    embedding: Tensor  # [V, E]
    bias: Tensor  # [V]
    layers: list[dict[str, Tensor]]  # by the names of _LAYER_TENSORS

    @classmethod
    def find(cls, source: str, state: Mapping[str, Tensor]) -> EncoderTensors:
        """The tensors of an AWD-LSTM among those of a file. Raises InputError where they are another model's."""
        if name := next(filter(_CLASSIFIER.match, state), None):
            raise InputError(f"{source}: holds a classifier ({name}); import it by import-classifier")
        embedding: Tensor | None = None
        decoder: dict[str, Tensor] = {}
        layers: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            if _EMBEDDING.fullmatch(name):
                embedding = tensor
            elif match := _DECODER.fullmatch(name):
                decoder[match[1]] = tensor
            elif match := _LAYER.fullmatch(name):
                layer = layers.setdefault(int(match[1]), {})
                if match[3] or match[2] not in layer:  # the raw weight is the one that was trained
                    layer[match[2]] = tensor
            elif _QRNN.fullmatch(name):
                raise InputError(
                    f"{source}: {name} belongs to a QRNN, as MultiFiT's; import it with its SentencePiece model "
                    "(--sentencepiece, ulmfit_fast.interop.multifit)"
                )
            else:
                raise InputError(f"{source}: an AWD-LSTM language model has no tensor {name}")
        if embedding is None or embedding.dim() != 2:
            raise InputError(f"{source}: holds no embedding (0.encoder.weight); is it a language model of fastai?")
        for i in range(max(layers, default=0) + 1):
            if missing := [name for name in _LAYER_TENSORS if name not in layers.get(i, {})]:
                raise InputError(f"{source}: layer {i} (0.rnns.{i}) lacks {', '.join(missing)}")
            if any(layers[i][name].dim() != (2 if "weight" in name else 1) for name in _LAYER_TENSORS):
                raise InputError(f"{source}: the tensors of layer {i} (0.rnns.{i}) are not an LSTM's")
        bias = decoder.get("bias", embedding.new_zeros(len(embedding)))
        used = {"the embedding": embedding, "the softmax's bias": bias}
        used |= {f"layer {i}'s {name}": layer[name] for i, layer in layers.items() for name in _LAYER_TENSORS}
        if (diverged := not_finite(used)) is not None:
            raise InputError(f"{source}: {diverged} holds NaN or infinite numbers: its training has diverged")
        if "weight" in decoder and not torch.equal(decoder["weight"], embedding):
            raise InputError(f"{source}: the softmax has a weight of its own; only tied weights can be imported")
        if bias.shape != embedding.shape[:1]:
            raise InputError(
                f"{source}: the softmax's bias is {list(bias.shape)}, the embedding has {len(embedding):,} rows"
            )
        return cls(embedding, bias, [layers[i] for i in range(len(layers))])


class _Nothing:
    """Stands for whatever fastai's optimizer state holds besides tensors. Takes any arguments and does nothing."""

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


_OF_THE_OPTIMIZER = (
    "fastcore.foundation.L", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype",
)  # fmt: skip


def read_weights(path: Path) -> dict[str, Tensor]:
    """A file's state dict by the names of the model itself, floating-point. Raises InputError; runs nothing."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        state: Any
        if path.suffix == ".safetensors":
            state, _ = read_tensors(path)
        else:
            inert: Any = [(_Nothing, name) for name in _OF_THE_OPTIMIZER]
            with torch.serialization.safe_globals(inert), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the pickle's version
                state = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes ask for
        if name := re.search(r"GLOBAL (\S+)", str(error)):
            raise InputError(
                f"{path}: holds a {name[1]}, which would have to be unpickled and could run code; in the project that "
                "wrote it: torch.save(model.state_dict(), ...)"
            ) from None
        raise InputError(f"{path}: not a readable file of weights, or a damaged one ({_reason(error)})") from None
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]  # beside "opt", as learn.save writes it
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: holds no state_dict, a dictionary of tensors")
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise InputError(f"{path}: {shortened(name)} is larger than the memory it is stored in")
    if 4 * sum(tensor.numel() for tensor in state.values()) > _SHARED * max(path.stat().st_size, 1 << 20):
        raise InputError(f"{path}: its tensors share their memory many times over")
    return _without_wrappers({str(name): tensor.detach().float() for name, tensor in state.items()})


def _reason(error: Exception) -> str:
    return shortened(error) or type(error).__name__


def _without_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the names of the model itself: ``torch.compile`` and ``DataParallel`` put their own before."""
    state = {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
    while state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


class _ForeignObjectError(Exception):
    """A pickle holds something that only running code would restore."""


class _PlainUnpickler(pickle._Unpickler):
    """Lists, dictionaries, texts and numbers; whatever names a class or function is refused.

    Python's own in Python: that in C takes as much memory as the largest number that a pickle gives to a memory.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(
        pickle._Unpickler.dispatch
    )  # what is done at each byte that begins an instruction

    def find_class(self, module: str, name: str) -> Any:
        raise _ForeignObjectError(f"it refers to {module}.{name}")

    def load_bytearray8(self) -> None:
        """Its memory would be cleared, as much as the file says, before it is read."""
        raise _ForeignObjectError("it holds a bytearray")

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def read_vocabulary(path: Path) -> list[str]:
    """A file's tokens in the order of their rows. Raises InputError; runs nothing."""
    return _as_words(str(path), read_plain(path))


def read_plain(path: Path) -> Any:
    """Lists, dictionaries, texts and numbers of a ``.pkl`` or ``.json``, or a text's lines. Errors as above."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        if path.suffix in (".pkl", ".pickle"):
            with path.open("rb") as file:
                value = _PlainUnpickler(file).load()
        elif path.suffix == ".json":
            value = json.loads(path.read_text(encoding="utf-8-sig"))
        else:
            value = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except _ForeignObjectError as error:
        raise InputError(
            f"{path}: holds more than a list of texts ({error}); there: json.dump(list(vocab), open('vocab.json', 'w'))"
        ) from None
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # a damaged pickle raises whatever its bytes ask for
        raise InputError(f"{path}: not a readable vocabulary ({_reason(error)})") from None
    return value


def _as_words(source: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        rows = list(value.values())
        if not all(type(row) is int for row in rows) or sorted(rows) != list(range(len(rows))):
            raise InputError(f"{source}: does not map tokens to the rows 0 to {len(value) - 1}")
        value = sorted(value, key=value.__getitem__)
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(word, str) for word in value):
        raise InputError(f"{source}: is not a list of tokens")
    return list(value)
