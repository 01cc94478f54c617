"""Two ways to take part in training: a callback of your own, and a plain torch loop around LanguageModel."""

from pathlib import Path

import pandas as pd
import torch

from ulmfit_fast import AWDLSTM, AWDLSTMConfig, LanguageModel, PretrainConfig, Tokenizer, ops, pretrain_lm
from ulmfit_fast.training.callbacks import Callback, EarlyStopping

texts = list(pd.read_csv(Path(__file__).parent / "data" / "unlabelled.csv").text)
small = PretrainConfig(embedding_size=64, hidden_size=64, num_layers=1, epochs=2, batch_size=16, lr=0.01)


class Losses(Callback):
    def on_step(self, trainer, done):
        if done.batches % 5 == 0:
            print(f"  {done.batches} of {trainer.expected_batches} steps: loss {done.loss / done.tokens:.2f}")

    def on_epoch(self, trainer, record):
        print(f"epoch {record['epoch']}: perplexity {record['perplexity']:.1f}")


pretrain_lm(texts, small, progress=False, callbacks=[Losses(), EarlyStopping(patience=3)])

torch.manual_seed(0)
tokenizer = Tokenizer.train_words(texts)
ids = torch.cat([torch.from_numpy(text) for text in tokenizer.encode(texts)]).long()
lanes = ids[: len(ids) // 16 * 16].view(16, -1).T  # [time, 16]
model = LanguageModel(AWDLSTM(AWDLSTMConfig(len(tokenizer), 64, 64, num_layers=1)))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for start in range(0, len(lanes) - 71, 70):
    output = model(lanes[start : start + 70])  # hand output.state to the next call to go on with the same texts
    loss = ops.linear_cross_entropy(
        output.dropped, model.decoder_weight, lanes[start + 1 : start + 71], model.decoder_bias
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss of the own loop after {start + 70} steps of text: {loss:.2f}")
