"""What every room needs.

| module            | subject                                                |
| ----------------- | ------------------------------------------------------ |
| artifacts         | folders of tasks: what made them; are they complete?   |
| specifications    | what identifies a result; how two of them differ       |
| file_groups       | files that a manifest names in groups, by a list       |
| repairs           | inputs made again in part: are they those of before?   |
| atomic            | writes files whole or not at all                       |
| locks             | one run at a time in a workdir; shared parts of a task |
| leases, buckets   | the same in buckets, which have no locks; their files  |
| engine            | work in parts: of this process, or Ray's workers       |
| ray_cluster       | what Ray's workers do: starts, loses and replaces them |
| ray_worker        | one of them                                            |
| errors            | errors that a user can correct                         |
| progress, timings | progress on the screen; the time of each task          |
| commands          | how commands end, by themselves or by a signal         |
| mesh, processes   | devices and processes that work as one                 |
| memory            | the memory of a device, and what fits                  |
| threads           | applies a function by threads                          |
| cache             | the cache folder                                       |
| download          | downloads, checked against a hash                      |
| published         | publishers' files: places and hashes                   |
| hub               | Hugging Face's hub                                     |
| text_files        | reads text and JSON of others                          |
"""
