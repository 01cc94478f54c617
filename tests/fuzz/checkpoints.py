"""Checkpoints: files with damage, and files with other contents whose checksums fit; a run goes on from each."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from tests.fuzz.models import Files, damaged_file, files_of
from tests.fuzz.mutations import any_json
from tests.fuzz.surface import Case, Surface
from tests.tiny import PRETRAIN, make_task
from ulmfit_fast import pipeline, pretrain_lm
from ulmfit_fast.storage.run_file import CHECKPOINT, load_state, save_state
from ulmfit_fast.tasks.metrics import METRICS
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.text.token_file import TokenArray
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training import history, run

_TEXTS, _ = make_task(8)
_VALID, _ = make_task(2, seed=1)
_FROM_A_FILE = 0.1  # of the states that are other than a run's: the others need not be written and read
_CONFIGS = {
    "adam": replace(PRETRAIN, epochs=2, ema_decay=0.9, checkpoint_minutes=1e-9),
    "ntasgd": replace(PRETRAIN, epochs=2, optimizer="ntasgd", lr=1.0, checkpoint_minutes=1e-9),
}


class _Enough(BaseException):
    pass


class Checkpoints(Surface):
    name = "checkpoints"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        tokenizer = Tokenizer.train_words(_TEXTS, min_frequency=1)
        train, valid = (TokenArray(list(tokenizer.encode(texts))) for texts in (_TEXTS, _VALID))
        self.corpus = Corpus(tokenizer, train, valid)
        self.bases = {name: self._interrupted(name) for name in _CONFIGS}
        self.states = {name: load_state(folder / name) for name in _CONFIGS}
        self.place = folder / "run"
        self.forged: dict[str, Any] | None = None  # of the case: the state that the run finds
        # All that does not depend on the checkpoint is done once: it would be most of a case's time.
        run.save_state = lambda *_: None  # type: ignore[assignment]
        run.load_state = lambda place: load_state(place) if self.forged is None else self.forged  # type: ignore[assignment]
        history.plot_curves = _look_at  # type: ignore[assignment]  # it takes longer than the run
        real, made = pipeline.new_module, []

        def new_module(make: Any, generator: torch.Generator) -> Any:
            if not made:
                made.append(real(make, generator))
                made.append(copy.deepcopy(made[0].state_dict()))
            made[0].load_state_dict(made[1])
            made[0].zero_grad(set_to_none=True)
            return made[0]

        pipeline.new_module = new_module  # type: ignore[assignment]

    def _interrupted(self, name: str) -> Files:
        written = 0

        def save(folder: Path, state: dict[str, Any]) -> None:
            nonlocal written
            written += 1
            save_state(folder, state)
            if state["records"] and state["done"]["batches"]:
                raise _Enough

        run.save_state, before = save, run.save_state  # type: ignore[assignment]
        try:
            pretrain_lm(self.corpus, _CONFIGS[name], output=self.folder / name)
        except _Enough:
            pass
        finally:
            run.save_state = before  # type: ignore[assignment]
        return files_of(self.folder / name)

    def case(self, random: Random) -> Case:
        name = random.choice(tuple(self.bases))
        files = dict(self.bases[name])
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        forged = random.random() < 0.8
        if not forged:
            files[CHECKPOINT] = damaged_file(random, CHECKPOINT, files[CHECKPOINT])
        for file, data in files.items():
            (self.place / file).write_bytes(data)
        self.forged = None
        if forged:
            state = _damaged_state(random, self.states[name])
            if random.random() < _FROM_A_FILE:
                save_state(self.place, state)
            else:
                self.forged = state
        self.size = sum(map(len, files.values()))
        resumes = random.random() < 0.9 and forged
        return lambda: self._go_on(name) if resumes else self._read()

    def _read(self) -> None:
        state = load_state(self.place)
        assert isinstance(state, dict)

    def _go_on(self, name: str) -> None:
        pretrain_lm(self.corpus, _CONFIGS[name], output=self.place, resume=True)


def _look_at(records: list[dict[str, Any]], points: Any = ()) -> bytes:
    """What a picture needs of the history."""
    for record in records:
        for name in ("loss", "valid_loss", *METRICS):
            float(record.get(name, 0))
    for epochs, loss in points:
        float(epochs), float(loss)
    return b""


def _damaged_state(random: Random, state: dict[str, Any]) -> dict[str, Any]:
    state = _containers_copied(state)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        places = list(_places(state))
        holder, key = random.choice(places)
        match random.randrange(6):
            case 0:
                del holder[key]
            case 1:
                other, place = random.choice(places)
                if place in (other if isinstance(other, dict) else range(len(other))):
                    holder[key] = _containers_copied(other[place])
            case _:
                value = holder[key]
                holder[key] = _other_tensor(random, value) if isinstance(value, Tensor) else any_json(random)
        if not state:
            break
    return state


def _containers_copied(value: Any) -> Any:
    """A copy that shares tensors, which nobody changes; as a file holds it, tuples are lists."""
    if isinstance(value, dict):
        return {key: _containers_copied(item) for key, item in value.items()}
    return [_containers_copied(item) for item in value] if isinstance(value, list | tuple) else value


def _places(value: Any) -> Any:
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _other_tensor(random: Random, x: Tensor) -> Any:
    match random.randrange(5):
        case 0:
            return x.to(random.choice((torch.float64, torch.int64, torch.bool, torch.bfloat16)))
        case 1:
            return torch.zeros([max(0, size + random.choice((-1, 0, 1))) for size in x.shape], dtype=x.dtype)
        case 2:
            return x.reshape(-1)
        case 3:
            return torch.full_like(
                x, random.choice((0, 1, 77)) if not x.is_floating_point() else random.choice((float("nan"), 1e30, -1.0))
            )
    return any_json(random)
