"""Networks, each in a folder with the converter of its released weights.

| module                  | subject                                        |
| ----------------------- | ---------------------------------------------- |
| NAME/model.py           | the module                                     |
| NAME/weights.py         | `from_released` and `to_released`              |
| clip, siglip, dinov2    | encoders                                       |
| inception               | the network of FID                             |
| glide                   | the paper's generator                          |
| stable_diffusion        | UNet, autoencoder and texts of 1.x, 2.x and XL |
| flux2, qwen3            | FLUX.2-klein; the reader of its prompts        |
| t5                      | writes prompts                                 |
| resnet, vit             | classifiers                                    |
| classifiers             | makes those by name                            |
| attention, conv, rotary | layers of several networks,                    |
| unet_layers             | those of UNets                                 |
| lora                    | low-rank updates of any of them                |
| pixels, unit            | ranges of pixels; vectors of length 1          |
"""
