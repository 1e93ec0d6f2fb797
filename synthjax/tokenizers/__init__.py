"""Text to tokens: `bpe` (CLIP, GLIDE), `sentence_pieces` (T5)."""
