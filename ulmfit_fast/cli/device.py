"""The option that chooses a device, apart from the others: its module loads torch, which some commands do without."""

from __future__ import annotations

import click

from ulmfit_fast.core.device import DEVICES

device_option = click.option(
    "--device", default="auto", type=click.Choice(DEVICES), show_default=True, help="auto: a GPU where there is one"
)
