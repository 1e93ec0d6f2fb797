"""Images: `pipeline` reads and batches files, `real` opens data sets,
`generated` stores, scores and filters drawn images, `formats` exports them.
"""
