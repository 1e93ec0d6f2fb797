"""Networks, each in a folder with the converter of its released weights.

`NAME/model.py` has the module, `NAME/weights.py` the functions `from_released`
and `to_released`. `classifiers` makes ResNets and ViTs by name; `attention`,
`conv`, `pixels` and `unet_layers` are shared by several networks.
"""
