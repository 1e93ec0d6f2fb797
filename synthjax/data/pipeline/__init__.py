"""From rows to batches: `rows` (the interface), `image_files`, `codecs` and
`jpeg` (reading and encoding), `host_augment` (crops and views), `loader`
(Grain).
"""
