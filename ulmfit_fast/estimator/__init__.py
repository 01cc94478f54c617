"""scikit-learn's interface: the three stages as a classifier, and a language model's vectors of texts."""

from ulmfit_fast.estimator.classifier import ULMFiTClassifier
from ulmfit_fast.estimator.vectorizer import ULMFiTVectorizer

__all__ = ["ULMFiTClassifier", "ULMFiTVectorizer"]
