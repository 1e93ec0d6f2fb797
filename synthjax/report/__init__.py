"""The report, one HTML page, and the dataset card.

| module           | subject                                            |
| ---------------- | -------------------------------------------------- |
| results          | gathers the numbers of a workdir                   |
| checked_files    | reads the files of tasks, and refuses damaged ones |
| page             | builds the page from `sections`                    |
| sections         | a module for each section                          |
| paper_comparison | our numbers beside the paper's (paper_tables.json) |
| charts           | charts, as SVG                                     |
| interval_charts  | curves with intervals, as SVG                      |
| markup           | numbers and tables, as HTML                        |
| card             | the dataset card                                   |
"""
