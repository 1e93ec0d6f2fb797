"""CLIP tuned on few or generated images.

`linear_head` tunes a classifier on stored features (`feature_sets`),
`few_shot_methods` compares it with CoOp, Tip-Adapter and a linear probe, and
`encoder_tuning` tunes the image encoder itself. `classifier` opens what a run
has learned, for any images.
"""
