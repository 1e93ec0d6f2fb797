"""Real images: `real_images` opens a block of a config, `archives` reads data
sets from their publishers' files, `paper_datasets` lists the paper's 17 sets.
"""
