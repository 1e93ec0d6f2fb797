"""Measures: accuracies over seeds, distances of image sets, near duplicates."""
