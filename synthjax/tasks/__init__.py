"""The tasks of a config, one module each.

FIELDS is the dataclass of the task's block, with all fields and defaults;
`check(config, workdir)` runs before the first task, `run(config, workdir)`
writes the task's folder. A task whose work has parts has `prepare(config,
workdir)`, which yields them; see `runtime.engine`.
"""
