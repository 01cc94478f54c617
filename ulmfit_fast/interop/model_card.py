"""What a model folder says of itself, as the README.md of a hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ulmfit_fast.storage.both_directions import members
from ulmfit_fast.storage.model_folder import read_config, read_training_args
from ulmfit_fast.tasks.metrics import LOSS, METRICS
from ulmfit_fast.text.tokenizer import Tokenizer

TAGS = ("ulmfit_fast", "ulmfit", "awd-lstm", "safetensors")
# Of what a model was trained with, what tells most; all of it is in training_args.json.
_ARGUMENTS = (
    "stage", "weights", "epochs", "batch_size", "bptt", "lr", "schedule", "unfreezing", "discriminative_factor",
    "drop_mult", "weight_decay", "strength", "label_words", "templates", "precision", "seed",
)  # fmt: skip
_LABELS_SHOWN = 50


def model_card(
    folder: Path,
    *,
    name: str | None = None,
    training_data: str | None = None,
    scores: Mapping[str, Any] | None = None,
    license: str | None = None,
) -> str:
    """The text of README.md.

    Args:
        folder: of a model, or of both directions.
        name: in the hub, "owner/name".
        training_data: what it was trained on, for people to read.
        scores: name -> number; on which texts they were measured is for ``training_data`` to say. None: those of the
            validation texts, as far as history.jsonl has them.
        license: as the hub names it, "apache-2.0".
    """
    first = members(folder)[0]
    config, arguments = read_config(first), read_training_args(first)
    is_classifier = config["kind"] == "classifier"
    numbers = {key: value for key, value in (scores or {}).items() if isinstance(value, int | float)}
    title, measured = "Scores", numbers
    if scores is None:
        title, measured = "Scores on validation texts", _of_history(first)
    lines = ["---", "library_name: ulmfit_fast"]
    lines += [f"pipeline_tag: {'text-classification' if is_classifier else 'text-generation'}"]
    lines += [f"license: {json.dumps(license)}"] if license else []
    lines += ["tags:", *(f"- {tag}" for tag in TAGS)]
    lines += ["metrics:", *(f"- {key}" for key in measured)] if measured else []
    lines += ["---", "", f"# {name or 'A model of ulmfit_fast'}", "", _what_it_is(folder, config), ""]
    if is_classifier:
        labels = json.loads((first / "labels.json").read_text(encoding="utf-8"))
        shown = ", ".join(f"`{label}`" for label in labels[:_LABELS_SHOWN])
        lines += [f"Labels: {shown}{' and others' if len(labels) > _LABELS_SHOWN else ''}.", ""] if labels else []
    lines += ["## Use", "", "```python", *_use(is_classifier, name), "```", ""]
    lines += ["## Training", "", training_data or "Nothing is said of the texts that it was trained on.", ""]
    told = {key: arguments[key] for key in _ARGUMENTS if key in arguments}
    lines += [*_table("setting", told), ""] if told else []
    lines += [f"## {title}", "", *_table("score", measured), ""] if measured else []
    return "\n".join(lines)


def _what_it_is(folder: Path, config: Mapping[str, Any]) -> str:
    sizes, tokenizer = config["encoder"], Tokenizer.load(members(folder)[0] / "tokenizer.json")
    kind = "language model"
    if config["kind"] == "classifier":
        kind = f"classifier ({config.get('task_type', 'single_label')})"
    directions = "both directions" if len(members(folder)) > 1 else f"texts {tokenizer.direction}"
    return (
        f"A ULMFiT {kind}: {config.get('encoder_type', 'awd_lstm')}, {sizes['num_layers']} layers, embedding "
        f"{sizes['embedding_size']}, hidden {sizes['hidden_size']}, {sizes['vocab_size']:,} tokens of the tokenizer "
        f"{tokenizer.kind}; it reads {directions}. Weights: {config.get('precision', 'float32')}, safetensors, no "
        "pickle."
    )


def _use(is_classifier: bool, name: str | None) -> list[str]:
    source = f'"hf://{name}"' if name else '"this-folder"'
    if is_classifier:
        load = f'ULMFiTClassifier.from_pretrained("{name}")' if name else f"ULMFiTClassifier.load({source})"
        return ["from ulmfit_fast import ULMFiTClassifier", "", f"clf = {load}", 'clf.predict(["a text"])']
    return ["from ulmfit_fast import ULMFiTClassifier", "", f"clf = ULMFiTClassifier(pretrained={source})"]


def _of_history(folder: Path) -> dict[str, float]:
    """The validation scores of the epoch that was kept: the best by loss, where scores were measured."""
    path = folder / "history.jsonl"
    if not path.exists():
        return {}
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError:
        return {}
    measured = [r for r in records if isinstance(r, dict) and isinstance(r.get("valid_loss"), int | float)]
    if not measured:
        return {}
    arguments = read_training_args(folder)
    metric = arguments.get("metric", LOSS)
    if metric in METRICS and all(isinstance(r.get(metric), int | float) for r in measured):
        sign = 1 if METRICS[metric].greater_is_better else -1
        best = max(measured, key=lambda r: sign * r[metric])
    else:
        best = min(measured, key=lambda r: r["valid_loss"])
    return {name: best[name] for name in ("valid_loss", *METRICS) if isinstance(best.get(name), int | float)}


def _table(head: str, values: Mapping[str, Any]) -> list[str]:
    rows = [f"| {key} | {f'{x:.4g}' if isinstance(x, float) else x} |" for key, x in values.items()]
    return [f"| {head} | value |", "|---|---|", *rows]
