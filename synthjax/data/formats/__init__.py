"""Exports, and reading them again: one module for each format."""
