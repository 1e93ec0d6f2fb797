"""From files to batches.

| module       | subject                                                      |
| ------------ | ------------------------------------------------------------ |
| rows         | the interface of all sources: length, and access by position |
| image_files  | which files are images, and how they decode                  |
| codecs, jpeg | encoding and decoding                                        |
| orientation  | how EXIF turns images and boxes                              |
| inspection   | finds broken files before a run starts                       |
| given        | checks of what callers give                                  |
| few_shot     | draws a few examples of each class                           |
| host_augment | crops and views, before batches are made                     |
| loader       | batches, by Grain                                            |
"""
