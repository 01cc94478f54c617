"""Layers and models, in torch alone: the LSTM, the encoder, BPT3C, the language model, the classifier."""
