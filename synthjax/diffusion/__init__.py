"""The maths of sampling; networks arrive as functions.

`schedule` has noise tables, `guidance` turns predictions into denoisers,
`samplers` walks from noise to images, `latents` serves latent diffusion, and
`flow` flow matching.
"""
