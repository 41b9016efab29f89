"""Your likes, dislikes and pairs: from a CSV to the batches of a step.

prepare  Pick-a-Pic v2, converted to a CSV        images   one image, read from its file
table    a CSV, with errors that name the row      draws    which examples the steps of a run will draw
index    the rows of a CSV, indexed on disk        cache    their images and captions, encoded once
check    the data, before training                 store    files of encoded examples, for the cache
batches  the examples of each step
"""
