"""PyTorch's files as data: `reader.parse` reads one without running it."""
