"""Your likes, dislikes and pairs: from a CSV to the batches of a step.

table    any CSV, with errors that name the row    prepare  Pick-a-Pic v2 into such a CSV
index    its rows, on disk                         images   one image, read
cache    images and captions, encoded once         store    the arrays they are kept in
check    what cannot be learned from               batches  the examples of each step
"""
