"""Accuracy of ours and of what users would pick instead, on the same draws of labels: see README.md here."""
