"""The demonstration: the three stages on text that every installation carries."""
