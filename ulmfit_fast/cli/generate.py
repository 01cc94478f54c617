"""The command that lets a language model write."""

from __future__ import annotations

from pathlib import Path

import click

from ulmfit_fast.cli.device import device_option
from ulmfit_fast.core.console import say
from ulmfit_fast.core.device import choose_device
from ulmfit_fast.inference.generation import generate_text, stream_text
from ulmfit_fast.nn.generation import Sampling
from ulmfit_fast.storage.both_directions import members
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.model_folder import load_language_model


@click.command("generate")
@click.argument("prompt", default="")
@click.option("--model", "folder", required=True, type=Path, help="folder of a language model, or the name of one")
@click.option("--tokens", default=200, type=click.IntRange(min=1), show_default=True, help="most tokens of a text")
@click.option("--count", default=1, type=click.IntRange(min=1), show_default=True, help="texts to write")
@click.option(
    "--temperature", default=0.8, type=float, show_default=True,
    help="above 0.8 bolder, below it more cautious; 0: always the most likely word",
)  # fmt: skip
@click.option("--top-k", default=0, type=int, show_default=True, help="draw from so many of the likeliest; 0: from all")
@click.option(
    "--top-p", default=0.95, type=float, show_default=True,
    help="draw from the likeliest words that have this probability together",
)  # fmt: skip
@click.option(
    "--repetition-penalty", default=1.2, type=float, show_default=True, help="above 1: against words that came lately"
)
@click.option(
    "--seed", type=click.IntRange(min=0), help="the same seed writes the same  [default: another text each time]"
)
@click.option(
    "--class", "given", metavar="LABEL",
    help="write a text of this class: for a model fine-tuned with --text-column label --text-column text",
)  # fmt: skip
@click.option("--past-end", is_flag=True, help="where a text ends go on with the next one")
@device_option
def generate_command(
    prompt: str, folder: Path, tokens: int, count: int, temperature: float, top_k: int, top_p: float,
    repetition_penalty: float, seed: int | None, given: str | None, past_end: bool, device: str,
) -> None:  # fmt: skip
    """Let a language model go on from PROMPT.

    What it writes is printed as it comes. Of a model that reads backward it is what stands before PROMPT. A small model
    writes grammatical sentences that mean little; it is a way to see what it has learned, and no source of facts.
    """
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty)
    model, tokenizer = load_language_model(members(find_pretrained(folder))[0])
    model.to(choose_device(device))
    for number in range(count):
        own = None if seed is None else seed + number
        if tokenizer.direction == "backward":
            before = generate_text(model, tokenizer, prompt, tokens, sampling, given=given, seed=own, past_end=past_end)
            say(f"{before} {prompt}".strip())
            continue
        pieces = stream_text(model, tokenizer, prompt, tokens, sampling, given=given, seed=own, past_end=past_end)
        say(prompt, end="")
        for piece in pieces:
            say(piece, end="")
        say("")


COMMANDS = {"generate": generate_command}
