"""Draws labelled images, filters them and learns recognisers from them."""

__version__ = "0.1.0"
