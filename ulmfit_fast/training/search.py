"""Hyper-parameter search over a stage's configuration with Optuna: the study is kept, goes on, and prunes by epoch."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ulmfit_fast.core.errors import InputError, TrainingDivergedError, shortened
from ulmfit_fast.training.callbacks import Callback
from ulmfit_fast.training.config import TrainingConfig
from ulmfit_fast.training.history import Record
from ulmfit_fast.training.trainer import Trainer

_NAME = "ulmfit-fast"  # of the study in its file
_LOWER_IS_BETTER = ("valid_loss", "perplexity")
# Options that change the vocabulary: the data then have another checksum in each trial.
_OF_VOCABULARY = ("tokenizer", "vocab_size", "min_frequency", "direction", "new_vocabulary")
_NOT_SEARCHED = ("device", "checkpoint_minutes", "seed")


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; ``log``: evenly by their logarithm; ``whole``: no fractions."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]


Space = Mapping[str, Range | Choice]


@dataclass(frozen=True)
class Trial:
    """One training of a search.

    Args:
        number: from 0.
        options: what was tried.
        value: the measure at its best epoch; None where no epoch was finished.
        state: "complete", "pruned", or why it failed.
        epochs: that were trained.
    """

    number: int
    options: dict[str, Any]
    value: float | None
    state: str
    epochs: int


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        config: the configuration of the best trial.
        best: that trial.
        trials: all.
        measure: what they are compared by.
    """

    config: TrainingConfig
    best: Trial
    trials: list[Trial]
    measure: str


def parse_space(specifications: Sequence[str], kind: type[TrainingConfig]) -> dict[str, Range | Choice]:
    """The space that texts describe, checked against a configuration's fields.

    ``lr=1e-3:1e-1`` is a range, ``lr=1e-3:1e-1:log`` one by the logarithm, ``unfreezing=gradual,all`` some values. A
    name alone takes the field's own: all choices; a number's range from a tenth of the default to ten times it.

    Raises:
        InputError: an unknown name, a value that the configuration refuses, a name alone whose field has no range.
    """
    known = {f.name: f for f in fields(kind) if f.name not in _NOT_SEARCHED}
    space: dict[str, Range | Choice] = {}
    for specification in specifications:
        typed, _, values = specification.partition("=")
        name = typed.strip().replace("-", "_")
        if name not in known:
            raise InputError(f"space {specification!r}: {kind.__name__} has no {name!r}; it has {', '.join(known)}")
        space[name] = _given(known[name], values, specification) if values else _own(known[name], specification)
        for value in _ends(space[name]):
            kind(**{name: value})
    if not space:
        raise InputError("space: nothing is to be searched; give a field's name, such as lr")
    return space


def _own(field: Field[Any], specification: str) -> Range | Choice:
    """The range that a field has by its default and its limits."""
    limits, default = field.metadata, field.default
    if limits["choices"]:
        return Choice(tuple(limits["choices"]))
    if isinstance(default, bool):
        return Choice((False, True))
    if isinstance(default, int | float) and default > 0:
        low, high = default / 10, default * 10
        low = max(low, limits["at_least"]) if limits["at_least"] is not None else low
        high = min(high, limits["at_most"]) if limits["at_most"] is not None else high
        whole = isinstance(default, int)
        return Range(math.ceil(low) if whole else low, math.floor(high) if whole else high, True, whole)
    raise InputError(f"space {specification!r}: give a range, such as {field.name}=LOW:HIGH, or values A,B")


def _given(field: Field[Any], values: str, specification: str) -> Range | Choice:
    kind = type(field.default)
    if ":" not in values:
        return Choice(tuple(_read(value, kind, specification) for value in values.split(",")))
    low, high, *rest = values.split(":")
    if kind not in (int, float) or rest not in ([], ["log"]):
        raise InputError(f"space {specification!r}: a range is LOW:HIGH or LOW:HIGH:log, of numbers")
    found = Range(_read(low, kind, specification), _read(high, kind, specification), bool(rest), kind is int)
    if not found.low < found.high or (found.log and found.low <= 0):
        raise InputError(
            f"space {specification!r}: LOW must be below HIGH{', and above 0 with log' if found.log else ''}"
        )
    return found


def _read(text: str, kind: type, specification: str) -> Any:
    if kind is bool:
        named = {"true": True, "false": False, "yes": True, "no": False}
        if text.lower() in named:
            return named[text.lower()]
    else:
        try:
            return kind(text)
        except ValueError:
            pass
    raise InputError(f"space {specification!r}: {text!r} is no {kind.__name__}")


def _ends(part: Range | Choice) -> tuple[Any, ...]:
    if isinstance(part, Choice):
        return part.values
    return (int(part.low), int(part.high)) if part.whole else (part.low, part.high)


def search(
    train: Callable[..., Any],
    config: TrainingConfig,
    space: Space,
    trials: int = 20,
    *,
    study: str | Path | None = None,
    measure: str = "valid_loss",
    seed: int = 0,
    on_trial: Callable[[Trial], None] | None = None,
) -> SearchResult:
    """Train again and again with other options, and find which do best on the validation texts.

    >>> search(partial(finetune_classifier, texts, labels, "lm/", valid_texts=more, valid_labels=theirs),
    ...        ClassifierConfig(), parse_space(["lr", "unfreezing"], ClassifierConfig))

    After its second epoch, or a later one, a trial ends that is behind the median of the others there. One that
    diverges counts as tried.

    Args:
        train: a stage with its texts; called with ``config`` and ``callbacks``.
        config: what stays the same.
        space: what is tried, by the configuration's fields.
        trials: how many, those that the study has included.
        study: file in which the study is kept (SQLite): the same call goes on with it, a trial that was interrupted is
            run again. One process at a time. None: in memory.
        measure: "valid_loss" or "perplexity", the lower the better, or a score of the records, the higher the better;
            at each trial's best epoch.
        seed: of the sampler (tree of Parzen estimators).
        on_trial: told of each trial as it ends.

    Raises:
        InputError: the study is of another search or unreadable; no validation texts; no trial was finished.
        ImportError: Optuna is not installed.
    """
    optuna = _optuna()
    if trials < 1:
        raise InputError(f"search: trials must be at least 1, got {trials}")
    with _quiet(optuna):
        kept = _open(optuna, study, measure)
        _check_same(kept, config, space, measure)
        _run_again_what_was_interrupted(optuna, kept)
        kept.sampler = optuna.samplers.TPESampler(seed=seed + len(kept.trials))
        while sum(map(_is_over, kept.trials)) < trials:
            number = _try(optuna, kept, train, config, space, measure)
            if on_trial is not None:
                on_trial(_trial(kept.trials[number]))
        found = [_trial(trial) for trial in kept.trials if _is_over(trial)]
    finished = [trial for trial in found if trial.state == "complete"]
    if not finished:
        raise InputError(f"search: none of {len(found)} trials was finished; the last one: {found[-1].state}")
    pick = min if measure in _LOWER_IS_BETTER else max
    best = pick(finished, key=lambda trial: trial.value or 0.0)
    return SearchResult(replace(config, **best.options), best, found, measure)


def _try(optuna: Any, kept: Any, train: Callable[..., Any], config: TrainingConfig, space: Space, measure: str) -> int:
    """One trial; returns its number."""
    trial = kept.ask()
    state, value = optuna.trial.TrialState.FAIL, None
    try:
        options = {name: _suggest(trial, name, part) for name, part in space.items()}
        try:
            tried = replace(config, **options)
        except InputError as error:  # options that do not go together
            trial.set_user_attr("reason", str(error))
            return int(trial.number)
        watch = _Search(kept, trial, measure, space)
        try:
            train(config=tried, callbacks=[watch])
            state, value = optuna.trial.TrialState.COMPLETE, watch.best
        except optuna.TrialPruned:
            state = optuna.trial.TrialState.PRUNED
        except TrainingDivergedError as error:
            trial.set_user_attr("reason", shortened(error))
    finally:
        kept.tell(trial, value, state=state)
    return int(trial.number)


class _Search(Callback):
    """Tells a trial of its epochs and ends it where it is behind."""

    def __init__(self, study: Any, trial: Any, measure: str, space: Space) -> None:
        self.study, self.trial, self.measure, self.space = study, trial, measure, space
        self.best: float | None = None

    def needs_validation(self) -> bool:
        return True

    def on_start(self, trainer: Trainer) -> None:
        if any(name in self.space for name in _OF_VOCABULARY):
            return
        known = self.study.user_attrs.get("data")
        if known is not None and known != trainer.checksum:
            raise InputError("search: the study was made on other texts or labels; use another file for these")
        self.study.set_user_attr("data", trainer.checksum)

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        value = record.get(self.measure)
        if not isinstance(value, int | float):
            scores = ", ".join(name for name, x in record.items() if isinstance(x, float))
            raise InputError(f"search: no {self.measure!r} is measured; the epochs have {scores}")
        pick = min if self.measure in _LOWER_IS_BETTER else max
        self.best = float(value) if self.best is None else pick(self.best, float(value))
        self.trial.report(float(value), record["epoch"])
        if record["epoch"] < trainer.config.epochs and self.trial.should_prune():
            raise _optuna().TrialPruned


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError("search: pip install optuna") from error
    return optuna


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _open(optuna: Any, path: str | Path | None, measure: str) -> Any:
    direction = "minimize" if measure in _LOWER_IS_BETTER else "maximize"
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2)
    if path is None:
        return optuna.create_study(direction=direction, pruner=pruner)
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: the folder {path.absolute().parent} does not exist")
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import SQLAlchemyError

    try:
        storage = optuna.storages.RDBStorage(URL.create("sqlite", database=str(path)).render_as_string())
        names = optuna.study.get_all_study_names(storage)
        if _NAME in names:
            return optuna.load_study(study_name=_NAME, storage=storage, pruner=pruner)
        return optuna.create_study(study_name=_NAME, storage=storage, direction=direction, pruner=pruner)
    except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:
        reason = shortened(getattr(error, "orig", None) or error)
        raise InputError(f"{path}: not a study that can be read and written ({reason}); use another file") from None


def _check_same(kept: Any, config: TrainingConfig, space: Space, measure: str) -> None:
    """Raises InputError where a study is of another search."""
    fixed = {name: value for name, value in asdict(config).items() if name not in space}
    parts = {name: {type(part).__name__: asdict(part)} for name, part in sorted(space.items())}
    mine = json.loads(json.dumps({"measure": measure, "space": parts, "config": fixed}))
    theirs = kept.user_attrs.get("search")
    if theirs is None:
        kept.set_user_attr("search", mine)
    elif theirs != mine:
        other = {**theirs.pop("config"), **theirs}, {**mine.pop("config"), **mine}
        names = sorted(name for name in other[0].keys() | other[1].keys() if other[0].get(name) != other[1].get(name))
        raise InputError(f"search: the study was begun with another {', '.join(names)}; use another file, or the same")


def _run_again_what_was_interrupted(optuna: Any, kept: Any) -> None:
    again = [trial for trial in kept.trials if trial.state == optuna.trial.TrialState.RUNNING]
    for trial in again:
        kept.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    waiting = [trial.system_attrs.get("fixed_params") for trial in kept.trials if not trial.state.is_finished()]
    done = [trial.params for trial in kept.trials if _is_over(trial)]
    for trial in kept.trials:
        interrupted = trial.state == optuna.trial.TrialState.FAIL and not _is_over(trial)
        if interrupted and trial.params and trial.params not in waiting and trial.params not in done:
            waiting.append(trial.params)
            kept.enqueue_trial(trial.params)


def _is_over(trial: Any) -> bool:
    """Whether a trial counts; one that was interrupted has failed without a reason."""
    return trial.state.name in ("COMPLETE", "PRUNED") or "reason" in trial.user_attrs


def _suggest(trial: Any, name: str, part: Range | Choice) -> Any:
    if isinstance(part, Choice):
        return trial.suggest_categorical(name, part.values)
    if part.whole:
        return trial.suggest_int(name, int(part.low), int(part.high), log=part.log)
    return trial.suggest_float(name, part.low, part.high, log=part.log)


def _trial(kept: Any) -> Trial:
    state = kept.user_attrs.get("reason", kept.state.name.lower())
    values = list(kept.intermediate_values.values())
    value = kept.value if kept.value is not None else (values[-1] if values else None)
    return Trial(kept.number, dict(kept.params), value, state, len(values))


def draw_search(result: SearchResult) -> bytes:
    """A PNG image: the measure by trial, and by each option that was tried; pruned trials are crosses.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("draw_search: pip install matplotlib") from error
    names = list(result.best.options)
    columns = min(3, 1 + len(names))
    rows = -(-(1 + len(names)) // columns)
    figure = Figure(figsize=(3.6 * columns, 3 * rows), layout="constrained")
    plots = figure.subplots(rows, columns, squeeze=False).flatten()
    shown = [trial for trial in result.trials if trial.value is not None and math.isfinite(trial.value)]
    for plot, name in zip(plots, [None, *names], strict=False):
        for state, marker in (("complete", "o"), ("pruned", "x")):
            own = [trial for trial in shown if trial.state == state]
            at = [trial.number if name is None else trial.options[name] for trial in own]
            at = [str(x) if isinstance(x, str | bool) else x for x in at]
            if own:
                plot.plot(at, [trial.value for trial in own], marker, color="C0", alpha=0.7, label=state)
        best = result.best.number if name is None else result.best.options[name]
        best = str(best) if isinstance(best, str | bool) else best
        plot.plot([best], [result.best.value], "*", color="C1", markersize=12, label="best")
        numbers = [trial.options[name] for trial in shown] if name is not None else []
        if numbers and all(type(x) in (int, float) and x > 0 for x in numbers) and max(numbers) > 8 * min(numbers):
            plot.set_xscale("log")
        plot.set_xlabel("trial" if name is None else name)
        plot.set_ylabel(result.measure)
    for plot in plots[1 + len(names) :]:
        plot.set_axis_off()
    plots[0].legend(fontsize="small")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()
