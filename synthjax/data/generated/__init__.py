"""Drawn images on disk: `plan` (which images, their ids), `shards`
(ArrayRecord), `scores` (features and probabilities), `filters`.
"""
