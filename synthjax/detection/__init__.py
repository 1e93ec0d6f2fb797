"""Faster R-CNN on PASCAL VOC or on scenes of the embedded world.

| module            | subject                                          |
| ----------------- | ------------------------------------------------ |
| sources           | opens images with boxes, by a block of a config  |
| voc, voc_files    | PASCAL VOC: its images, and its files of results |
| scenes            | scenes composed of embedded drawings             |
| loader, resize    | batches of a few static shapes                   |
| geometry, nms     | areas, overlaps, the box coder, suppression      |
| faster_rcnn       | the network, with RoIAlign                       |
| anchors           | the boxes that proposals start from              |
| regions           | proposals, and the regions to learn from         |
| objective         | losses, the training step, detections            |
| recipe            | how long it trains, by which optimizer           |
| average_precision | VOC's measure                                    |
| coco_precision    | COCO's measure                                   |
| results           | compares detectors by their first weights        |
| detector          | opens what a run has learned, for any images     |
"""
