"""Trained models on texts."""
