"""Files of weights.

| module      | subject                                            |
| ----------- | -------------------------------------------------- |
| read        | any released file: PyTorch, safetensors, msgpack   |
| torch_files | PyTorch's files, without running their code        |
| snapshots   | which files of a folder or of the hub to read      |
| rules       | conversion by rules, from PyTorch's names and back |
| conversion  | calls a family's mapping: `models/FAMILY/weights`  |
| files       | our own files: references to them, licences        |
| learned     | the weights that a run has learned, by arm         |
| given_files | conversion of files that a user brings             |
| catalogue   | the released checkpoints                           |
| __main__    | the command: list, fetch, convert, check, pack     |
"""
