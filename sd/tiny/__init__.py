"""A Stable Diffusion small enough for a laptop, and the world that it draws.

shapes  captioned drawings, an exact judge of them, likes and dislikes
build   trains the pipeline from nothing; pipeline/ is the result
runs    settings of runs that teach it a preference    figure7  the paper's Figure 7
"""
