"""The training loop and what it runs; no network is named here.

| module              | subject                                               |
| ------------------- | ----------------------------------------------------- |
| loop                | runs an Objective: its first state, and its step      |
| run                 | makes a training resumable, by checkpoints            |
| resident            | a training whose set lies on the devices              |
| metrics, loggers    | a file of metrics; TensorBoard and its like           |
| optimizer           | optimizers and learning rates                         |
| recipes             | how a network learns from images, by name             |
| supervised          | objective: classification                             |
| moco                | objective: MoCo v2                                    |
| multi_positive      | objective: StableRep                                  |
| contrastive         | objective: CLIP's                                     |
| denoising           | objective: GLIDE's                                    |
| lora                | objective: low-rank updates, many adapters at once    |
| pretraining         | the fields of config.pretrain; its objectives by name |
| finetune            | the fields of config.transfer; fresh heads            |
| backbones           | the weights that `pretrain` has left                  |
| monitor             | measures features while a network trains              |
| device_augment      | augmentation on the device, by recipes                |
| rand_augment, mixup | parts of DeiT's recipe                                |
| drawings            | captioned drawings, for the embedded networks         |
"""
