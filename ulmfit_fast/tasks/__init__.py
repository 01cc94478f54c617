"""What is predicted: labels, and the texts that are held out to measure it."""
