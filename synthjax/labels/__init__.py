"""Classes and their names.

| module          | subject                                             |
| --------------- | --------------------------------------------------- |
| spaces          | finds label spaces: those of the package, and files |
| space_schema    | what a label space is, and checks of its fields     |
| space_yaml      | the text of such a file                             |
| senses, wordnet | the meanings of a name                              |
| class_names     | the class of a name in a data set's files           |
| file_names      | names of files for any ids and classes              |
| articles        | "a" or "an"                                         |
"""
