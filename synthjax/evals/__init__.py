"""Measures.

| module        | subject                                            |
| ------------- | -------------------------------------------------- |
| accuracy      | accuracies, and their intervals over seeds         |
| arms          | compares the arms of an experiment                 |
| ranking       | ranks candidates by what has learned from each     |
| scaling       | what more images would give                        |
| weak_classes  | classes that a generator draws badly               |
| neighbours    | nearest rows, votes and near duplicates            |
| diversity     | variety, and how well images show their texts      |
| image_quality | all figures of a set: distances, precision, recall |
"""
