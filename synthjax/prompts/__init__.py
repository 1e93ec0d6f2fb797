"""Prompts from class names: `strategies` (which texts), `grammar` and
`sentences` (language enhancement), `t5_writer` (a language model).
"""
