"""Text to tokens.

| module          | subject                                |
| --------------- | -------------------------------------- |
| bpe             | GLIDE, CLIP                            |
| sentence_pieces | T5                                     |
| gemma           | SigLIP 2                               |
| qwen            | Qwen3                                  |
| cut_texts       | warns of texts that a network will cut |
"""
