"""A long document, classified while it comes: memory does not grow, and the prediction is that of the whole text."""

from pathlib import Path

import numpy as np
import pandas as pd

from ulmfit_fast import ClassifierConfig, ULMFiTClassifier

reviews = pd.read_csv(Path(__file__).parent / "data" / "train.csv")
classifier = ULMFiTClassifier(
    pretrained=None, classifier_config=ClassifierConfig(epochs=6, batch_size=16, drop_mult=0.2), progress=False
).set_params(
    pretrain_config__embedding_size=64, pretrain_config__hidden_size=64, pretrain_config__num_layers=1,
    pretrain_config__batch_size=8,
)  # fmt: skip
classifier.fit(reviews.text, reviews.label)

document = " ".join(reviews.text[reviews.label == "bad"]) * 10  # about 15,000 words
stream = classifier.stream()
for start in range(0, len(document), 1000):  # pieces may end anywhere, also within a word
    stream.feed(document[start : start + 1000])
    if start % 20_000 == 0:
        print(f"after {start + 1000:6,} characters: {stream.predict()} {stream.predict_proba().max():.3f}")

at_once = classifier.predict_proba([document])[0]
print("the same as the whole document at once:", np.array_equal(stream.predict_proba(), at_once))
