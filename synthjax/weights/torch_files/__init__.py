"""PyTorch's files as data, without running them.

| module   | subject                               |
| -------- | ------------------------------------- |
| reader   | a whole file: `parse`                 |
| unpickle | its pickle                            |
| records  | the names that a pickle may use       |
| mapped   | arrays of bytes that stay in the file |
"""
