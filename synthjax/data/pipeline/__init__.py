"""From rows to batches: `rows` (the interface), `image_files` and `codecs`
(reading and encoding), `host_augment` (crops and views), `loader` (Grain).
"""
