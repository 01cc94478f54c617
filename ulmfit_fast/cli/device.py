"""Options on where and how to compute, apart from the others: they load torch, which some commands do without."""

from __future__ import annotations

import click

from ulmfit_fast.core.device import DEVICES, PRECISIONS

device_option = click.option(
    "--device", default="auto", type=click.Choice(DEVICES), show_default=True, help="auto: a GPU where there is one"
)
precision_option = click.option(
    "--precision", default="float32", type=click.Choice((*PRECISIONS, "int8")), show_default=True,
    help="bfloat16: faster where the processor has it, by autocast; int8: the fastest, on the CPU alone",
)  # fmt: skip
