"""Recognisers on CLIP, learned from few or generated images.

| module              | subject                                             |
| ------------------- | --------------------------------------------------- |
| linear_head         | a linear classifier, tuned on stored features       |
| feature_sets        | the stored features it learns from and is tested on |
| soft_targets        | hard, soft and mixed cross entropy, the paper's SCE |
| uncertainty         | chooses images that a classifier is unsure of       |
| heads               | files with the classifiers of all arms and seeds    |
| few_shot_methods    | the few-shot methods, behind one interface:         |
| mixed_tuning        | the paper's, on real and generated images           |
| linear_probe, coop  | those compared with it,                             |
| tip_adapter, prolip | and more of them                                    |
| topping_up          | uneven classes, topped up with generated images     |
| encoder_tuning      | tunes the image encoder itself, or a part of it     |
| lora                | tunes both towers, by low-rank updates              |
| classifier          | opens what a run has learned, for any images        |
| evaluation          | measures that on labelled images                    |
| serving             | exports it as one file: StableHLO, ONNX             |
"""
