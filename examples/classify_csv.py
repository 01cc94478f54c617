"""A classifier from a CSV: the language model also learns from texts that have no label."""

from pathlib import Path

import pandas as pd

from ulmfit_fast import ClassifierConfig, PretrainConfig, ULMFiTClassifier

data = Path(__file__).parent / "data"  # short reviews of hotels, made up for this example
train, test = pd.read_csv(data / "train.csv"), pd.read_csv(data / "test.csv")
unlabelled = pd.read_csv(data / "unlabelled.csv")

classifier = ULMFiTClassifier(
    pretrain_config=PretrainConfig(
        embedding_size=64, hidden_size=64, num_layers=1, epochs=2, batch_size=8, lr=0.01, drop_mult=0.2
    ),
    classifier_config=ClassifierConfig(epochs=15, batch_size=16, drop_mult=0.2),
    class_weight="balanced",
    progress=False,
)
classifier.fit(train.text, train.label, unlabeled=unlabelled.text)
for record in classifier.history_.records:
    print(f"{record['stage']}, epoch {record['epoch']}: loss {record['loss']:.3f}")
print(f"accuracy on {len(test)} new reviews: {classifier.score(test.text, test.label):.2f}")

test["prediction"] = classifier.predict(test.text)
print(test[test.prediction != test.label][["label", "text"]].head(3).to_string(index=False))
