"""Prompts from class names: `strategies` (which texts), `grammar` and
`sentences` (language enhancement), and writers: `t5_writer` and `qwen3_writer`,
language models that choose by `sampling`, and `file_writer`.
"""
