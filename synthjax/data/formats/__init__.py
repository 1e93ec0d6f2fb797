"""Exports, and reading them again: one module for each format.

| module         | subject                                       |
| -------------- | --------------------------------------------- |
| png_folder     | a folder of images for each class             |
| webdataset     | tar files                                     |
| parquet        | what Hugging Face's `datasets` opens          |
| coco           | images with boxes, and one JSON file          |
| image_list     | a table of files and classes; read only       |
| export_rows    | what the exports share                        |
| numbered_files | files of a set, each made whole or not at all |
| hub_readme     | the README.md of an export                    |
"""
