"""Models of a hub: its cache as it lies on disk, offline; what is sent, to a hub that is played."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command_line import assert_one_line
from tests.tiny import CLASSIFY, PRETRAIN, make_task
from ulmfit_fast import InputError, TrainedClassifier, ULMFiTClassifier, finetune_classifier, pretrain_lm
from ulmfit_fast.cli.main import main
from ulmfit_fast.storage import both_directions
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.hub_cache import hub_address

huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
TEXTS, LABELS = make_task(60)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "clf"
    finetune_classifier(
        TEXTS, LABELS, None, CLASSIFY, valid_texts=TEXTS[:20], valid_labels=LABELS[:20], output=folder, progress=False
    )
    return folder


def put_in_cache(cache: Path, repo_id: str, folder: Path) -> Path:
    """A cache as huggingface_hub leaves it: blobs, a snapshot of links to them, a ref."""
    repo = cache / f"models--{repo_id.replace('/', '--')}"
    snapshot = repo / "snapshots" / COMMIT
    (repo / "blobs").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    for path in (p for p in folder.rglob("*") if p.is_file()):
        blob, link = repo / "blobs" / str(hash(path)), snapshot / path.relative_to(folder)
        shutil.copyfile(path, blob)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def offline(code: str, cache: Path, folder: Path) -> str:
    """What a program prints with that cache and no way to the hub. The library reads its settings as it is imported."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    root = Path(__file__).parents[2]
    environment["PYTHONPATH"] = str(root)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_from_the_cache_and_offline(classifier: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    snapshot = put_in_cache(cache, "me/reviews", classifier)
    put_in_cache(cache, "me/other", tmp_path / "nothing")
    expected = ULMFiTClassifier.load(classifier).predict_proba(TEXTS[:5]).tolist()
    code = f"""
import json
from ulmfit_fast import InputError, ULMFiTClassifier
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.cli.main import main
texts = {TEXTS[:5]!r}
for clf in (ULMFiTClassifier.from_pretrained("me/reviews"), ULMFiTClassifier.load(find_pretrained("hf://me/reviews"))):
    print(json.dumps(clf.predict_proba(texts).tolist()))
print(find_pretrained("me/reviews"))
print(find_pretrained("hf://me/reviews@{COMMIT}"))
print(find_pretrained("me/unknown"))
for name in ("hf://me/unknown", "hf://me/other", "hf://me/reviews@v2"):
    try:
        find_pretrained(name)
    except InputError as error:
        print(error)
print(main(["info", "hf://me/reviews"]))
"""
    first, second, name, by_commit, unknown, *errors, shown = offline(code, cache, tmp_path).splitlines()[:9]
    assert json.loads(first) == json.loads(second) == expected
    assert Path(name) == Path(by_commit) == snapshot
    assert unknown == "me/unknown"  # which the reader of folders explains
    assert errors[0].startswith("hf://me/unknown: cannot be had from the hub or its cache (")
    assert "config.json is missing" in errors[1] or "cannot be had" in errors[1]
    assert errors[2].startswith("hf://me/reviews: cannot be had")
    assert "classifier" in shown


def test_addresses() -> None:
    assert hub_address("hf://me/x-1.b") == ("me/x-1.b", None)
    assert hub_address(Path("hf://me/x@refs/pr/1")) == ("me/x", "refs/pr/1")
    for other in ("me/x", "hf://me", "hf://me/x/y", "hf://../x", "https://me/x", "en"):
        assert hub_address(other) is None


def test_a_path_that_is_wrong_asks_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(repo_id: str, **options: Any) -> None:
        asked.append((repo_id, options.get("local_files_only", False)))
        raise OSError("no way there")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert find_pretrained("models/lm") == Path("models/lm")
    assert find_pretrained(tmp_path / "no" / "lm") == tmp_path / "no" / "lm"
    assert asked == []
    assert find_pretrained("me/lm") == Path("me/lm")  # only the cache is looked into
    with pytest.raises(InputError, match="no way there"):
        find_pretrained("hf://me/lm")
    assert asked == [("me/lm", True), ("me/lm", False)]


class PlayedHub:
    """What ``HfApi`` is asked, and a copy of what it is sent."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, {}

    def __call__(self, token: str | None = None) -> PlayedHub:
        self.asked["token"] = token
        return self

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        self.asked |= options
        return type("Repo", (), {"repo_id": repo_id})

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        shutil.copytree(folder_path, self.folder / repo_id)
        return f"https://hub/{repo_id}/commit/1"


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlayedHub:
    hub = PlayedHub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", hub)
    return hub


def test_push(classifier: Path, played: PlayedHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clf = ULMFiTClassifier.load(classifier)
    address = clf.push_to_hub(
        "me/reviews", private=True, token="t", training_data="Sixty made texts.", scores={"accuracy": 0.75},
        license="apache-2.0",
    )  # fmt: skip
    assert address == "https://hub/me/reviews/commit/1"
    assert played.asked == {"token": "t", "private": True, "exist_ok": True}
    sent = played.folder / "me/reviews"
    assert ULMFiTClassifier.load(sent).predict(TEXTS[:5]).tolist() == clf.predict(TEXTS[:5]).tolist()
    card = huggingface_hub.ModelCard.load(sent / "README.md")
    assert card.data.to_dict() == {
        "library_name": "ulmfit_fast", "pipeline_tag": "text-classification", "license": "apache-2.0",
        "tags": ["ulmfit_fast", "ulmfit", "awd-lstm", "safetensors"], "metrics": ["accuracy"],
    }  # fmt: skip
    for part in ("# me/reviews", "Sixty made texts.", "| accuracy | 0.75 |", "Labels: `bad`, `good`.",
                 'from_pretrained("me/reviews")', "2 layers, embedding 12, hidden 16"):  # fmt: skip
        assert part in card.text, part
    # The command line: the folder's own settings and validation scores.
    assert main(["push", str(classifier), "me/second"]) == 0
    assert capsys.readouterr().out.strip() == "https://hub/me/second/commit/1"
    text = (played.folder / "me/second/README.md").read_text()
    best = min(map(json.loads, (classifier / "history.jsonl").read_text().splitlines()), key=lambda r: r["valid_loss"])
    assert f"| accuracy | {best['accuracy']:.4g} |" in text
    assert "| epochs | 8 |" in text
    assert "Nothing is said of the texts" in text
    assert not (played.folder / "me/second/checkpoint.safetensors").exists()
    (tmp_path / "scores.json").write_text("[]")
    for arguments, message in (
        ([str(tmp_path), "me/x"], "config.json is missing"),
        ([str(classifier), "me/x", "--scores", str(tmp_path / "scores.json")], "holds no scores by name"),
        ([str(classifier), "me/x", "--scores", str(tmp_path / "no.json")], "not a readable file of scores"),
    ):
        assert main(["push", *arguments]) == 2
        assert_one_line(capsys, message)


def test_a_hub_that_refuses(
    classifier: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("401 Unauthorized")

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", refuse)
    assert main(["push", str(classifier), "me/x"]) == 2
    assert_one_line(capsys, "me/x: the hub did not take it (401 Unauthorized)")


def test_both_directions_and_language_models(played: PlayedHub, tmp_path: Path) -> None:
    from dataclasses import replace

    from ulmfit_fast.interop.hub import HubModel

    both = tmp_path / "both"
    both.mkdir()
    for direction in ("forward", "backward"):
        config = replace(CLASSIFY, direction=direction, epochs=1)
        finetune_classifier(TEXTS, LABELS, None, config, output=both / direction, progress=False)
    both_directions.join(both)
    HubModel(both).push_to_hub("me/both")
    sent = played.folder / "me/both"
    assert both_directions.members(sent) == [sent / "forward", sent / "backward"]
    TrainedClassifier.load(sent / "backward")
    assert "both directions" in (sent / "README.md").read_text()
    pretrain_lm(TEXTS, PRETRAIN, output=tmp_path / "lm", progress=False)
    HubModel(tmp_path / "lm").save_pretrained(tmp_path / "copy")
    copied = HubModel.from_pretrained(tmp_path / "copy")
    assert "text-generation" in (tmp_path / "copy/README.md").read_text()
    assert (copied.folder / "model.safetensors").read_bytes() == (tmp_path / "lm/model.safetensors").read_bytes()


def test_folders_are_safe(classifier: Path, tmp_path: Path) -> None:
    from ulmfit_fast.interop.hub import HubModel

    with pytest.raises(InputError, match="is the model's own folder"):
        HubModel(classifier).save_pretrained(classifier)
    clf = ULMFiTClassifier.load(classifier)
    clf.save_pretrained(tmp_path / "out", training_data="Texts.")
    assert "Texts." in (tmp_path / "out/README.md").read_text()
    with pytest.raises(InputError, match="already holds a model"):
        HubModel(classifier).save_pretrained(tmp_path / "out")
    HubModel(classifier).save_pretrained(tmp_path / "out", overwrite=True)
    assert ULMFiTClassifier.from_pretrained(tmp_path / "out", device="cpu").predict(TEXTS[:3]).tolist() == clf.predict(
        TEXTS[:3]
    ).tolist()  # fmt: skip
    assert (classifier / "config.json").exists()


def test_without_the_extra(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "ulmfit_fast.interop.hub", raising=False)
    clf = ULMFiTClassifier.load(classifier)
    with pytest.raises(ImportError, match=r"needs? huggingface_hub, which is not installed.*'\.\[hub\]'"):
        clf.push_to_hub("me/x")
    with pytest.raises(InputError, match=r"hf://me/x: models of a hub need huggingface_hub"):
        find_pretrained("hf://me/x")
    assert find_pretrained("me/x") == Path("me/x")
