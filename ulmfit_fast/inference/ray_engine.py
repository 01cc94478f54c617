"""Folders of tables on many machines, by Ray Data (the extra ``ray``): a file in, a file out.

Each file is read, predicted and written by one process as ``predict`` does it. Its output appears under its name when
all of it is written, and a later run leaves out what is there: a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import importlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.lock import locked_folder
from ulmfit_fast.core.progress import progress_bar
from ulmfit_fast.inference.bulk import BulkOptions
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.prediction import predict_documents
from ulmfit_fast.inference.tables import Wanted, predict_table
from ulmfit_fast.text.files import Documents
from ulmfit_fast.text.reading import TABLES, kind_of_name
from ulmfit_fast.text.table_writer import TableWriter


@dataclass
class FolderResult:
    """What a run over a folder did."""

    files: int = 0
    rows: int = 0
    skipped: int = 0  # files whose output was there
    faults: list[str] = field(default_factory=list)  # the reason of each file without output


def table_files(folder: Path) -> list[Path]:
    """The tables in a folder and its subfolders, relative to it, by name; hidden ones and _SUCCESS are none.

    Raises:
        InputError: there is no such folder, or no table in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: --engine ray takes a folder of tables; there is no such folder")
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith((".", "_")) for part in name.parts) and _is_table(path):
            found.append(name)
    if not found:
        raise InputError(f"{folder}: holds no .csv, .tsv, .jsonl or .parquet file")
    return found


def predict_folder(
    source: Path, output: Path, wanted: Wanted, options: BulkOptions, processes: int | None = None,
    overwrite: bool = False, progress: bool = False,
) -> FolderResult:  # fmt: skip
    """Predict every table of a folder into a file of the same name in another folder.

    Args:
        source, output: folders that all machines reach under these names. The second is made where it does not exist.
        wanted: what is read and written.
        options: of each process.
        processes: at a time; None: one for each ``options.threads`` of the cluster's cores.
        overwrite: predict files again whose output is there.
        progress: show a bar.

    Raises:
        InputError: no Ray, no tables, a model that cannot be used, an output folder that cannot be written, or that
            another run writes to. What is wrong with one file is among ``FolderResult.faults``, and the others go on.
    """
    ray = _ray()
    source, output = source.absolute(), output.absolute()
    names = table_files(source)
    if output == source or source in output.parents:
        raise InputError(f"{output}: lies in the folder that is read; choose another output folder")
    model = Classifiers.load(options.folders, options.device, options.precision)
    wanted.check(model.task, str(options.folders[0]), str(source))
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; with --engine ray give a folder")
    result = FolderResult()
    with locked_folder(output):
        for left in output.rglob(".*.partial"):  # of a run that was killed
            left.unlink()
        todo = [name for name in names if overwrite or not (output / name).exists()]
        result.skipped = len(names) - len(todo)
        if not todo:
            return result
        for name in todo:
            (output / name).parent.mkdir(parents=True, exist_ok=True)
        with progress_bar("predict", len(todo), "file", progress) as bar:
            for row in _run(ray, [(source / name, output / name) for name in todo], wanted, options, processes):
                if row["fault"]:
                    result.faults.append(row["fault"])
                else:
                    result.files += 1
                    result.rows += int(row["rows"])
                bar.update(1)
    return result


def _run(
    ray: Any, files: list[tuple[Path, Path]], wanted: Wanted, options: BulkOptions, processes: int | None
) -> Iterator[dict[str, Any]]:
    """What ``FilePredictor`` says of each file, as they end."""
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        items = [{"source": str(one), "output": str(other)} for one, other in files]
        cores = int(ray.cluster_resources().get("CPU", 1))
        at_a_time = min(len(items), processes or max(1, cores // options.threads))
        data = ray.data.from_items(items, override_num_blocks=len(items)).map(
            FilePredictor, fn_constructor_args=(wanted, options), num_cpus=min(options.threads, cores),
            concurrency=at_a_time,
        )  # fmt: skip
        yield from data.iter_rows()
    finally:
        if started:
            ray.shutdown()


class FilePredictor:
    """One process of a run: holds the models, and takes a file after the other."""

    def __init__(self, wanted: Wanted, options: BulkOptions) -> None:
        torch.set_num_threads(options.threads)
        self.wanted, self.options = wanted, options
        self.classifiers = Classifiers.load(options.folders, options.device, options.precision)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Of {"source", "output"}: {"rows", "fault"}, the fault empty where all is well."""
        try:
            writer = TableWriter(Path(row["output"]))
            rows = predict_table(Path(row["source"]), writer, self.classifiers.task, self.wanted, self._predict)
        except (InputError, OSError) as error:
            return {"rows": 0, "fault": str(error)}
        return {"rows": rows, "fault": ""}

    def _predict(
        self, pieces: Iterable[Documents], characters: int
    ) -> Generator[tuple[Documents, np.ndarray], None, None]:
        options = self.options
        return predict_documents(
            self.classifiers.members, pieces, characters, options.batch_size, False, options.max_tokens,
            self.classifiers.precision,
        )  # fmt: skip


def _is_table(path: Path) -> bool:
    try:
        return kind_of_name(path.name, str(path))[0] in TABLES
    except InputError:
        return False


def _ray() -> Any:
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise InputError(
            f"--engine ray needs Ray Data ({error}): in its source folder: pip install --no-build-isolation '.[ray]'"
        ) from None
    return ray
