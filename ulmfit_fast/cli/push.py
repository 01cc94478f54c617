"""The command that sends a model folder to a hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ulmfit_fast.core.console import say
from ulmfit_fast.core.errors import InputError, shortened


@click.command("push")
@click.argument("folder", metavar="MODEL", type=Path)
@click.argument("name", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="others cannot see it")
@click.option("--training-data", help="for the model card: what the model was trained on")
@click.option("--scores", type=Path, help="for the model card: a .json of scores by name")
@click.option("--license", help="for the model card, such as apache-2.0")
def push_command(
    folder: Path, name: str, private: bool, training_data: str | None, scores: Path | None, license: str | None
) -> None:
    """Send a MODEL folder to Hugging Face's hub.

    With a model card of its settings, labels and scores. Who you are is what hf auth login, or HF_TOKEN, says. Needs
    the extra hub.
    """
    about: dict[str, Any] = {"training_data": training_data, "license": license}
    if scores is not None:
        try:
            about["scores"] = json.loads(scores.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{scores}: not a readable file of scores ({shortened(error)})") from None
        if not isinstance(about["scores"], dict):
            raise InputError(f"{scores}: holds no scores by name")
    try:
        from ulmfit_fast.interop.hub import push_to_hub

        address = push_to_hub(folder, name, private=private or None, **about)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(str(error)) from None
    except Exception as error:  # of the network and of the hub's answers: of many classes
        raise InputError(f"{name}: the hub did not take it ({shortened(error, 300)})") from None
    say(address)


COMMANDS = {push_command.name: push_command}
