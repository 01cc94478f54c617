"""A classifier from a list of texts: train it, predict, save it, load it again."""

import sys
import tempfile
from pathlib import Path

from ulmfit_fast import ClassifierConfig, PretrainConfig, ULMFiTClassifier

SENTENCES = {
    "weather": ["rain reaches the coast at noon", "a cold wind blows from the north", "fog fills the valley"],
    "sport": ["the keeper saved a penalty", "she won by two seconds", "the match ended without a goal"],
    "food": ["fry the onions in butter", "the bread must rest for an hour", "season the soup with pepper"],
}
pairs = [(f"{a}, and {b}", label) for label, said in SENTENCES.items() for a in said for b in said]
texts, labels = zip(*pairs, strict=True)

# A model this small trains in seconds. Leave the configurations out for the sizes of the ULMFiT paper.
classifier = ULMFiTClassifier(
    pretrain_config=PretrainConfig(embedding_size=64, hidden_size=64, num_layers=1, batch_size=4, min_frequency=1),
    classifier_config=ClassifierConfig(epochs=20, batch_size=9, lr=3e-3, drop_mult=0.1, unfreezing="all"),
    progress=False,
)
classifier.fit(texts, labels)
print(f"accuracy on the training texts: {classifier.score(texts, labels):.2f}")

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "classifier"
classifier.save(folder)
loaded = ULMFiTClassifier.load(folder)
new = ["the wind brings rain to the valley", "rest the onions, and season the bread"]
for text, label, probabilities in zip(new, loaded.predict(new), loaded.predict_proba(new), strict=True):
    print(f"{label:8} {probabilities.max():.2f}  {text}")
