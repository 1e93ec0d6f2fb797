"""Files of weights.

| module           | subject                                                   |
| ---------------- | --------------------------------------------------------- |
| read             | any released file: PyTorch, safetensors, msgpack          |
| torch_files      | PyTorch's files, without running their code               |
| rules            | conversion by rules, from PyTorch's names and back        |
| files            | our own files: references to them, licences               |
| catalogue        | the released checkpoints                                  |
| __main__         | the command: list, fetch, convert, check, pack            |
"""
