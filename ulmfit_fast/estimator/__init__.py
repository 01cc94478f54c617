"""The three stages as a scikit-learn estimator: its arguments, its training, and what it does once it is fitted."""

from ulmfit_fast.estimator.classifier import ULMFiTClassifier

__all__ = ["ULMFiTClassifier"]
