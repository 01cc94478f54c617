"""The command demo."""

from __future__ import annotations

from pathlib import Path

import click

from ulmfit_fast.cli.device import device_option


@click.command("demo")
@click.option(
    "--output", default=Path("demo-output"), type=Path, show_default=True, help="folder for models, table and picture"
)
@click.option(
    "--pretrained", default="en", show_default=True, help="language model: a folder, or the name of an installed one"
)
@click.option("--draws", default=3, type=click.IntRange(min=1), show_default=True, help="draws of the labels")
@device_option
def demo_command(output: Path, pretrained: str, draws: int, device: str) -> None:
    """Run the three stages on texts that are here already.

    A classifier learns which of ten topics a sentence of Wikipedia is about, from ten labels each. Prints what it
    reaches beside TF-IDF. Takes less than five minutes on two cores.
    """
    from ulmfit_fast.demo.demo import run_demo

    run_demo(output, pretrained, draws, device)


COMMANDS = {"demo": demo_command}
