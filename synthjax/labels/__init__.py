"""Label spaces: `spaces` finds them, `space_schema` and `space_yaml` read a
user's file, `senses` knows the meanings of names.
"""
