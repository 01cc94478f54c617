"""Nine kinds of public models around ``nn.LSTM``, in miniature: what they do before, between and after its calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Separation(nn.Module):
    """Masks for a source's magnitudes, after Open-Unmix: three bidirectional layers beside a skip connection."""

    def __init__(self, bins: int, width: int) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(bins, width, bias=False), nn.BatchNorm1d(width), nn.Tanh())
        self.lstm = nn.LSTM(width, width // 2, num_layers=3, bidirectional=True, dropout=0.4)
        self.decode = nn.Sequential(
            nn.Linear(2 * width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, bins)
        )

    def forward(self, magnitudes: Tensor) -> Tensor:  # [T, B, bins]
        steps, batch, bins = magnitudes.shape
        x = self.encode(magnitudes.flatten(0, 1)).view(steps, batch, -1)
        x = torch.cat([x, self.lstm(x)[0]], dim=-1)
        mask = self.decode(x.flatten(0, 1)).view(steps, batch, bins)
        return F.relu(mask) * magnitudes


class TextRecognition(nn.Module):
    """A line of text from an image (CRNN): convolutions down to one row, two bidirectional layers over its columns."""

    def __init__(self, channels: int, hidden: int, characters: int) -> None:
        super().__init__()
        half = channels // 2
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, half, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(half, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d((4, 2)),
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d((4, 1)),
        )  # fmt: skip
        self.lstms = nn.ModuleList(
            [nn.LSTM(channels, hidden, bidirectional=True), nn.LSTM(hidden, hidden, bidirectional=True)]
        )
        self.heads = nn.ModuleList([nn.Linear(2 * hidden, hidden), nn.Linear(2 * hidden, characters)])

    def forward(self, image: Tensor) -> Tensor:  # [B, 1, 32, W]
        x = self.convolutions(image).squeeze(2).permute(2, 0, 1)
        for lstm, head in zip(self.lstms, self.heads, strict=True):
            x = head(lstm(x)[0])
        return x.log_softmax(-1)


class SpeechEncoder(nn.Module):
    """Characters to what a decoder attends to, after Tacotron 2: convolutions and a packed bidirectional layer."""

    def __init__(self, characters: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.convolutions = nn.ModuleList(
            nn.Sequential(nn.Conv1d(width, width, 5, padding=2), nn.BatchNorm1d(width)) for _ in range(3)
        )
        self.lstm = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)

    def forward(self, characters: Tensor, lengths: Tensor) -> Tensor:  # [B, T], the longest first
        x = self.embedding(characters).transpose(1, 2)
        for convolution in self.convolutions:
            x = F.dropout(F.relu(convolution(x)), 0.5, self.training)
        self.lstm.flatten_parameters()
        output, _ = self.lstm(pack_padded_sequence(x.transpose(1, 2), lengths, batch_first=True))
        return pad_packed_sequence(output, batch_first=True)[0]


class SpeechRecognition(nn.Module):
    """Letters of each frame, after DeepSpeech: dense layers with clipped activations around one layer."""

    def __init__(self, features: int, hidden: int, letters: int) -> None:
        super().__init__()
        self.before = nn.ModuleList(nn.Linear(features if i == 0 else hidden, hidden) for i in range(3))
        self.lstm = nn.LSTM(hidden, hidden)
        self.after = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, letters)

    def forward(self, frames: Tensor) -> Tensor:  # [T, B, features]
        x = frames
        for layer in self.before:
            x = layer(x).clamp(0, 20)
        x, _ = self.lstm(x)
        return self.head(self.after(x).clamp(0, 20)).log_softmax(-1)


class Translation(nn.Module):
    """A packed source and a decoder that runs a step at a time, each with attention to the source."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(words, width), nn.Embedding(words, width)
        self.encoder = nn.LSTM(width, width // 2, bidirectional=True)
        self.decoder = nn.LSTM(2 * width, width)
        self.query = nn.Linear(width, width, bias=False)
        self.combine = nn.Linear(2 * width, width)
        self.head = nn.Linear(width, words)

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:  # [S, B], [B], [T, B]
        packed = pack_padded_sequence(self.source(source), lengths.cpu(), enforce_sorted=False)
        packed, (h, c) = self.encoder(packed)
        memory, _ = pad_packed_sequence(packed)
        padding = torch.arange(len(memory)).unsqueeze(1) >= lengths
        state = tuple(torch.cat([part[0], part[1]], dim=-1).unsqueeze(0) for part in (h, c))
        attended, outputs = memory.new_zeros(memory.shape[1:]), []
        for word in self.target(target):
            output, state = self.decoder(torch.cat([word, attended], dim=-1).unsqueeze(0), state)
            scores = (memory * self.query(output)).sum(-1).masked_fill(padding, -1e9)
            context = (scores.softmax(0).unsqueeze(-1) * memory).sum(0)
            attended = torch.tanh(self.combine(torch.cat([output[0], context], dim=-1)))
            outputs.append(attended)
        return self.head(torch.stack(outputs))


class WordLanguageModel(nn.Module):
    """Two layers with dropout between an embedding and a softmax over all words."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.encoder = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, dropout=0.5)
        self.decoder = nn.Linear(width, words)

    def forward(self, tokens: Tensor) -> Tensor:  # [T, B]
        output, _ = self.lstm(self.drop(self.encoder(tokens)))
        return self.decoder(self.drop(output))


class Policy(nn.Module):
    """A policy with memory, as PPO trains it: one step a call, the state cleared where an episode has ended."""

    def __init__(self, observations: int, hidden: int, actions: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(observations, hidden), nn.Tanh())
        self.lstm = nn.LSTM(hidden, hidden)
        self.actor, self.critic = nn.Linear(hidden, actions), nn.Linear(hidden, 1)

    def forward(self, observations: Tensor, done: Tensor) -> Tensor:  # [T, B, observations], [T, B]
        x = self.body(observations)
        h = c = x.new_zeros(1, x.shape[1], self.lstm.hidden_size)
        states = []
        for step, ended in zip(x, done, strict=True):
            going = (1 - ended).view(1, -1, 1)
            output, (h, c) = self.lstm(step.unsqueeze(0), (h * going, c * going))
            states.append(output)
        x = torch.cat(states)
        return torch.cat([self.actor(x), self.critic(x)], dim=-1)


class KnowledgeTracing(nn.Module):
    """Whether a pupil solves the next exercise, from exercises and answers so far (DKT)."""

    def __init__(self, skills: int, hidden: int) -> None:
        super().__init__()
        self.skills = skills
        self.lstm = nn.LSTM(2 * skills, hidden, batch_first=True)
        self.head = nn.Linear(hidden, skills)

    def forward(self, exercises: Tensor, solved: Tensor) -> Tensor:  # [B, T] each
        seen = F.one_hot(exercises + self.skills * solved, 2 * self.skills).to(self.head.weight.dtype)
        output, _ = self.lstm(seen)
        return torch.sigmoid(self.head(output))


class Tagger(nn.Module):
    """Labels of words by a deep stack whose layers alternate in direction, with highway connections between them."""

    def __init__(self, words: int, width: int, layers: int, labels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.lstms = nn.ModuleList(nn.LSTM(width, width, batch_first=True) for _ in range(layers))
        self.gates = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(layers))
        self.head = nn.Linear(width, labels)

    def forward(self, words: Tensor) -> Tensor:  # [B, T]
        x = self.embedding(words)
        for lstm, gate in zip(self.lstms, self.gates, strict=True):
            output, _ = lstm(x)
            carry = torch.sigmoid(gate(torch.cat([x, output], dim=-1)))
            x = (carry * output + (1 - carry) * x).flip(1)
        return self.head(x if len(self.lstms) % 2 == 0 else x.flip(1))


@dataclass(frozen=True)
class Kind:
    """One row: how to make the model and what it reads. ``scale`` is 1 for what is timed, less for a smoke run."""

    name: str
    sizes: str
    make: Callable[[], nn.Module]
    draw: Callable[[], tuple[Any, ...]]


def kinds(smoke: bool) -> list[Kind]:
    """All nine, at a public project's sizes or at tiny ones."""

    def size(full: int, tiny: int) -> int:
        return tiny if smoke else full

    def lengths(full: tuple[int, int], tiny: tuple[int, int], batch: int) -> Tensor:
        shortest, longest = tiny if smoke else full
        return torch.linspace(longest, shortest, batch).long()

    few, many, steps = size(8, 2), size(16, 3), size(50, 5)
    bins, wide, medium = size(512, 9), size(512, 8), size(256, 6)
    words, letters = size(5000, 30), size(37, 7)
    spoken, source = lengths((20, 80), (2, 6), size(16, 3)), lengths((5, 30), (2, 6), size(16, 3)).flip(0)
    return [
        Kind(
            "source separation", f"3 x 2 x {wide} -> {wide // 2}, T={steps}, B={few}",
            lambda: Separation(bins, wide), lambda: (torch.rand(steps, few, bins),),
        ),
        Kind(
            "text recognition (CRNN)", f"2 x 2 x {medium}, T={size(26, 4)}, B={many}",
            lambda: TextRecognition(wide, medium, letters), lambda: (torch.randn(many, 1, 32, size(104, 16)),),
        ),
        Kind(
            "speech synthesis, encoder", f"2 x {wide} -> {wide // 2}, packed, B={len(spoken)}",
            lambda: SpeechEncoder(letters, wide),
            lambda: (torch.randint(letters, (len(spoken), int(spoken[0]))), spoken),
        ),
        Kind(
            "speech recognition", f"{size(1024, 8)}, T={steps}, B={few}",
            lambda: SpeechRecognition(size(494, 9), size(1024, 8), letters),
            lambda: (torch.randn(steps, few, size(494, 9)),),
        ),
        Kind(
            "translation, attention", f"2 x {medium} -> {medium // 2} packed, {medium} a step, B={len(source)}",
            lambda: Translation(size(2000, 30), medium),
            lambda: (
                torch.randint(size(2000, 30), (int(source.max()), len(source))), source,
                torch.randint(size(2000, 30), (size(20, 4), len(source))),
            ),
        ),
        Kind(
            "word language model", f"2 x {size(650, 8)}, T={size(35, 5)}, B={size(20, 3)}",
            lambda: WordLanguageModel(words, size(650, 8)),
            lambda: (torch.randint(words, (size(35, 5), size(20, 3))),),
        ),
        Kind(
            "PPO, a step a call", f"{size(128, 8)}, {size(64, 6)} calls with T=1, B={few}",
            lambda: Policy(size(64, 5), size(128, 8), 6),
            lambda: (torch.randn(size(64, 6), few, size(64, 5)), (torch.rand(size(64, 6), few) < 0.05).float()),
        ),
        Kind(
            "knowledge tracing", f"{2 * size(124, 6)} -> {size(200, 7)}, T={steps}, B={many}",
            lambda: KnowledgeTracing(size(124, 6), size(200, 7)),
            lambda: (torch.randint(size(124, 6), (many, steps)), torch.randint(2, (many, steps))),
        ),
        Kind(
            "tagger, highways", f"{size(4, 3)} x {size(300, 8)}, T={size(40, 5)}, B={many}",
            lambda: Tagger(words, size(300, 8), size(4, 3), letters),
            lambda: (torch.randint(words, (many, size(40, 5))),),
        ),
    ]  # fmt: skip
