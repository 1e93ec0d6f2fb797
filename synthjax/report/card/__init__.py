"""The dataset card: README.md, Croissant, samples.png.

| module  | subject                           |
| ------- | --------------------------------- |
| figures | quality, near duplicates, leakage |
| files   | writes the files                  |
| readme  | the text of README.md             |
"""
