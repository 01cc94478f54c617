"""``ulmfit-fast serve``: classifiers over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ulmfit_fast.cli import options
from ulmfit_fast.cli.device import device_option, precision_option
from ulmfit_fast.core.console import say
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.inference.classifiers import Classifiers

_NEEDS = ("fastapi", "uvicorn", "prometheus_client", "pydantic", "starlette")


def _count(name: str, parameter: str, default: int, text: str) -> Callable[[Any], Any]:
    return click.option(
        name, parameter, default=default, type=click.IntRange(min=1), show_default=True, metavar="COUNT", help=text
    )


@click.command("serve")
@click.argument("given", metavar="[NAME=]FOLDER...", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen at; 0.0.0.0: all of them")
@click.option("--port", default=8000, type=click.IntRange(0, 65535), show_default=True, help="0: any free one")
@click.option("--fd", type=click.IntRange(min=0), help="listen at this inherited socket instead (a supervisor's)")
@precision_option
@device_option
@_count("--max-body", "body_bytes", 4 << 20, "bytes of a request")
@_count("--max-texts", "texts", 256, "texts of a request")
@_count("--max-characters", "text_characters", 100_000, "characters of a text")
@_count("--max-queue", "queue_texts", 2048, "texts of a model that may wait; more are answered with 503")
@_count("--max-streams", "streams", 8, "texts that are predicted piece by piece at a time")
@_count("--max-explanations", "explanations", 8, "texts that are explained, or wait for it, at a time")
@_count("--max-explained", "explained_characters", 10_000, "characters of a text that is explained")
@_count("--max-connections", "connections", 1000, "open at a time")
@click.option(
    "--timeout", "queue_seconds", default=60.0, type=click.FloatRange(0, min_open=True), show_default=True,
    metavar="SECONDS", help="that a prediction may take, waiting included",
)  # fmt: skip
@_count("--batch-size", "batch_texts", 64, "texts of a batch; does not change the result")
@click.option(
    "--batch-wait", "batch_wait_ms", default=2.0, type=click.FloatRange(0, 1000), show_default=True,
    metavar="MILLISECONDS", help="that the first text of a batch waits for others",
)  # fmt: skip
@click.option("--access-log", is_flag=True, help="a line for each request")
def serve_command(
    given: tuple[str, ...], host: str, port: int, fd: int | None, precision: str, device: str, batch_texts: int,
    batch_wait_ms: float, access_log: bool, **limits: float,
) -> None:  # fmt: skip
    """Serve classifiers over HTTP.

    POST /predict takes one text or several, /explain one; / is a page to try it on; /docs explains the rest. A model is
    named by its folder, or by NAME=FOLDER; requests that name none go to the first. SIGTERM or Ctrl-C: the server
    answers what it has accepted, and ends.
    """
    folders = named_folders(given)
    if fd is not None:
        options.refuse_given(("host", "port"), "--fd is the socket")
    try:
        from ulmfit_fast.inference.serve.batcher import Batching
        from ulmfit_fast.inference.serve.limits import Limits
        from ulmfit_fast.inference.serve.server import Server, address_of, bound_socket, inherited_socket
        from ulmfit_fast.inference.serve.service import Service
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _NEEDS:
            raise
        raise InputError(
            f"serve needs {error.name}: in its source folder: pip install --no-build-isolation '.[serve]'"
        ) from None
    # Before the models, which take longer.
    listening = bound_socket(host, port) if fd is None else inherited_socket(fd)
    with listening:
        models = {name: Classifiers.load([folder], device, precision) for name, folder in folders.items()}
        batching = Batching(texts=batch_texts, wait_s=batch_wait_ms / 1000)
        service = Service(models, Limits(**limits), batching)  # type: ignore[arg-type]
        server = Server(service, access_log)
        say(f"{', '.join(models)} at {address_of(listening)} (Ctrl-C ends it)")
        server.run(sockets=[listening])


def named_folders(given: tuple[str, ...]) -> dict[str, Path]:
    """Folders by the names that they are served under. Raises InputError for a name that is there twice, or empty."""
    named: dict[str, Path] = {}
    for each in given:
        name, equals, folder = each.partition("=")
        if not equals:
            name, folder = Path(each).resolve().name, each
        if not name or not folder:
            raise InputError(f"{each}: expected NAME=FOLDER or FOLDER")
        if name in named:
            raise InputError(f"{each}: the name {name!r} is taken by {named[name]}; give another, NAME=FOLDER")
        named[name] = Path(folder)
    return named


COMMANDS = {serve_command.name: serve_command}
