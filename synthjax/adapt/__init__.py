"""CLIP tuned on few or generated images.

`linear_head` tunes a classifier on stored features (`feature_sets`), or on
those that another one is unsure of (`uncertainty`). `few_shot_methods` compares
it with CoOp, Tip-Adapter, ProLIP and a linear probe, `encoder_tuning` tunes the
image encoder itself, and `lora` both towers by low-rank updates. `classifier`
opens what a run has learned, for any images.
"""
