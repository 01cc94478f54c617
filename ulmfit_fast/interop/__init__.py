"""Models of other projects, in and out."""
