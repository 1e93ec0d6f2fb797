"""Real images.

| module          | subject                                                 |
| --------------- | ------------------------------------------------------- |
| real_images     | opens a block of a config                               |
| attributes      | backgrounds and poses, of a file or measured            |
| photographs     | a user's own, however they lie in a folder              |
| uneven          | what classes with few images lack                       |
| paper_datasets  | the paper's 17 sets and their splits                    |
| publishers      | where their publishers' files are and lie; unpacks them |
| archives, cifar | readers of data sets as they unpack: add yours here     |
| lists           | the lists of images in such archives                    |
| coop_splits     | CoOp's splits and few-shot draws                        |
| tfds_copies     | what TensorFlow Datasets has prepared                   |
"""
