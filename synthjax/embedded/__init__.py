"""The embedded world: its images, captions, label spaces and weights."""
