"""Drawn images on disk.

| module       | subject                                        |
| ------------ | ---------------------------------------------- |
| plan         | which images are drawn, and their ids          |
| shards       | files of images (ArrayRecord), and their index |
| unfinished   | images of shards that are not complete         |
| tables       | columns of facts about images (Parquet)        |
| drawn_images | opens what a run has drawn, all or a part      |
| scores       | CLIP's features and probabilities, by shard    |
| filters      | the CLIP filter and the real filter            |
"""
