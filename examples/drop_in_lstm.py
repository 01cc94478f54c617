"""WeightDropLSTM in the place of nn.LSTM: a small network learns whether a sequence's sum is positive."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from ulmfit_fast import WeightDropLSTM


class SignOfSum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = WeightDropLSTM(1, 32, weight_dropout=0.2)  # before: nn.LSTM(1, 32)
        self.head = nn.Linear(32, 2)

    def forward(self, sequences: list[torch.Tensor]) -> torch.Tensor:
        packed = pack_sequence(sequences, enforce_sorted=False)  # the layer computes no padding
        _, (h_n, _) = self.lstm(packed)
        return self.head(h_n[-1])


def draw(count: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    sequences = [torch.randn(int(length), 1) for length in torch.randint(5, 40, (count,))]
    return sequences, torch.stack([(sequence.sum() > 0).long() for sequence in sequences])


torch.manual_seed(0)
model = SignOfSum()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for _step in range(100):
    sequences, labels = draw(64)
    loss = nn.functional.cross_entropy(model(sequences), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

model.eval()
sequences, labels = draw(500)
accuracy = (model(sequences).argmax(1) == labels).float().mean()
print(f"loss {loss:.3f}, accuracy on new sequences {accuracy:.3f}")
