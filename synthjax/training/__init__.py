"""The training loop and what it runs; no network is named here.

`loop` runs any Objective (init, step), `run` makes it resumable by
`checkpoint`, `metrics` go to a file and to `loggers`; `supervised`, `moco`,
`multi_positive`, `contrastive` and `denoising` are objectives with their
losses, `optimizer` has optimizers and learning-rate schedules.
"""
