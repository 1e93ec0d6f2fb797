"""Measures: accuracies, scaling curves, distances of image sets, duplicates."""
