"""The dataset card: README.md, Croissant, samples.png, and their figures."""
