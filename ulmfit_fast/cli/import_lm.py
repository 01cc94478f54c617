"""The command that takes over another project's language model."""

from __future__ import annotations

from pathlib import Path

import click

from ulmfit_fast.cli import options
from ulmfit_fast.core.console import say
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.interop.fastai import import_language_model
from ulmfit_fast.interop.multifit import import_multifit
from ulmfit_fast.storage.model_folder import remove_run, save_model
from ulmfit_fast.storage.output_folder import output_folder
from ulmfit_fast.text.rules import SPECIAL_TOKENS
from ulmfit_fast.text.tokenizer import DIRECTIONS


@click.command("import-lm")
@click.argument("weights", metavar="WEIGHTS", type=Path)
@click.option(
    "--vocabulary", type=Path,
    help="its tokens in order: fastai's .pkl, a .json, or a token a line; with --sentencepiece only to check it",
)  # fmt: skip
@click.option(
    "--sentencepiece", "sentencepiece_model", type=Path,
    help="of a QRNN, as MultiFiT's models: its SentencePiece model, spm.model",
)  # fmt: skip
@options.output
@options.overwrite
@click.option(
    "--tokenizer", default="word", type=click.Choice(["word", "whitespace", "spacy"]), show_default=True,
    help="word; whitespace for a vocabulary of text that is tokenized already; spacy for fastai's tokens (extra spacy)",
)  # fmt: skip
@click.option(
    "--direction", default="forward", type=click.Choice(DIRECTIONS), show_default=True,
    help="direction in which the model was trained to read; its files do not say",
)  # fmt: skip
def import_lm_command(
    weights: Path, vocabulary: Path | None, sentencepiece_model: Path | None, output: Path, overwrite: bool,
    tokenizer: str, direction: str,
) -> None:  # fmt: skip
    """Read a language model's WEIGHTS that fastai trained.

    WEIGHTS are a .pth or .h5 file of fastai, or another project's AWD-LSTM; with --sentencepiece, a QRNN of fastai 1,
    as MultiFiT's are. The result is a model folder for finetune-lm and train, as if pretrain-lm had made it. Nothing
    that could run code is unpickled.
    """
    click.get_current_context().with_resource(output_folder(output, overwrite))
    if sentencepiece_model is not None:
        options.refuse_given(("tokenizer",), "--sentencepiece is the tokenizer")
        trained = import_multifit(weights, sentencepiece_model, vocabulary, direction=direction)
    elif vocabulary is None:
        raise InputError("--vocabulary is needed, or --sentencepiece for a model of MultiFiT")
    else:
        trained = import_language_model(weights, vocabulary, tokenizer, direction)
    tokens = vocabulary or sentencepiece_model
    source = {"stage": "import LM", "weights": weights.name, "vocabulary": tokens.name if tokens else ""}
    save_model(output, trained.model, trained.tokenizer, training_args=source)
    remove_run(output)
    config, words = trained.model.encoder.config, trained.tokenizer.vocabulary[len(SPECIAL_TOKENS) :]
    never = sum(not trained.tokenizer.can_be_token(word) for word in words)
    unmet = "" if sentencepiece_model else f" ({never:,} words are never met, as texts are split otherwise here)"
    say(
        f"model in {output}: {config.num_layers} layers, embedding {config.embedding_size}, hidden "
        f"{config.hidden_size}, {len(trained.tokenizer):,} tokens{unmet}"
    )


COMMANDS = {"import-lm": import_lm_command}
