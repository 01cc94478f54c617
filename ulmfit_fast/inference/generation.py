"""Text that a language model writes: from a prompt on, or as texts of a class begin."""

from __future__ import annotations

from collections.abc import Iterator

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.nn.generation import Sampling
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.text.detokenizer import detokenize, detokenizer
from ulmfit_fast.text.rules import BOS, EOS, FLD, PAD, UNK
from ulmfit_fast.text.tokenizer import Tokenizer

_NEVER = (UNK, PAD, FLD)  # what no reader wants to see


def stream_text(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str = "", max_tokens: int | None = 200,
    sampling: Sampling | None = None, *, given: str | None = None, seed: int | None = None, past_end: bool = False,
) -> Iterator[str]:  # fmt: skip
    """What the model writes after a prompt, word by word, without the prompt.

    Args:
        model, tokenizer: of a language model that reads forward.
        prompt: how the text begins; may be empty.
        max_tokens: most tokens; None: until the text ends. Memory does not depend on it.
        sampling: how tokens are drawn. None: ``Sampling()``.
        given: what the text is to be, of a model fine-tuned on two columns, this and the text (``finetune-lm
            --text-column label --text-column text``): it stands before the text as the first field.
        seed: of what is drawn; None: another text each time.
        past_end: go on when the text ends, with the next one.

    Raises:
        InputError: a model that reads from the end; a value of ``sampling`` out of its range.
    """
    if tokenizer.direction != "forward":
        raise InputError(
            "generate: a backward model writes a text from its end, so it cannot come word by word; use generate_text"
        )
    ids = _tokens(model, tokenizer, prompt, max_tokens, sampling, given, seed, past_end)
    return _written(tokenizer, prompt, ids)


def generate_text(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str = "", max_tokens: int = 200,
    sampling: Sampling | None = None, *, given: str | None = None, seed: int | None = None, past_end: bool = False,
) -> str:  # fmt: skip
    """``stream_text`` as a whole. Of a model that reads from the end it is what stands before ``prompt``."""
    if tokenizer.direction == "forward":
        found = stream_text(
            model, tokenizer, prompt, max_tokens, sampling, given=given, seed=seed, past_end=past_end
        )  # fmt: skip
        return "".join(found)
    if given is not None:
        raise InputError("generate: a backward model reads what the text is to be last; use a forward one")
    ids = _tokens(model, tokenizer, prompt, max_tokens, sampling, given, seed, past_end)
    return detokenize(tokenizer, list(ids)[::-1])


def _tokens(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str, max_tokens: int | None, sampling: Sampling | None,
    given: str | None, seed: int | None, past_end: bool,
) -> Iterator[int]:  # fmt: skip
    text = prompt if given is None else f"{FLD} 1 {given} {FLD} 2 {prompt}"
    (ids,) = tokenizer.encode([text])
    read = ids.tolist()
    if tokenizer.direction == "backward":  # whose texts end with what all begin after
        read = [read[-1], *read[:-1]]
    names = [*_NEVER, *((BOS, EOS) if past_end else ())]
    banned = [i for i in map(tokenizer.backend.token_to_id, names) if i is not None]
    stop = [] if past_end else [tokenizer.bos_id]
    sampling = sampling or Sampling()
    return model.generate(
        read, max_tokens, temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p,
        repetition_penalty=sampling.repetition_penalty, repetition_window=sampling.repetition_window, seed=seed,
        banned=banned, stop=stop,
    )  # fmt: skip


def _written(tokenizer: Tokenizer, prompt: str, ids: Iterator[int]) -> Iterator[str]:
    """The text of the ids, with the space that belongs between it and the prompt."""
    reader = detokenizer(tokenizer)
    (read,) = tokenizer.encode([prompt])
    for token in read[1:].tolist():
        reader.feed(token)
    reader.rest()
    begins = not prompt or prompt[-1].isspace()
    for token in ids:
        piece = reader.feed(token)
        piece = piece.lstrip(" ") if begins else piece
        if piece:
            begins = False
            yield piece
    if piece := reader.rest():
        yield piece
