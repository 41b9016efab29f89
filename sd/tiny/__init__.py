"""A Stable Diffusion small enough for a laptop, and the world that it draws.

shapes  captioned drawings, their exact judge, likes and dislikes
build   train the pipeline from nothing; pipeline/ is the result
runs    teach it a preference with each objective    figure7  the paper's Figure 7
"""
