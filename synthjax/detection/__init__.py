"""Faster R-CNN on PASCAL VOC or on scenes of the embedded world.

`voc` and `scenes` have the images, `loader` batches them, `faster_rcnn` is the
network, `objective` its losses and training step, `recipe` how it is trained,
`average_precision` and `results` measure it.
"""
