"""A Stable Diffusion small enough for a laptop, and the world that it draws.

shapes  captioned drawings, an exact judge of them, likes and dislikes
build   trains the pipelines from nothing; pipeline/ and pipeline-sd3/ are the results
unet    the network of Stable Diffusion, in small   mmdit     the transformer of Stable Diffusion 3
runs    settings of runs that teach it a preference    figure7  the paper's Figure 7
votes   pairs that it draws, and votes on them that overlap
"""
