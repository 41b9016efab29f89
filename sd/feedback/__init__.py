"""Your likes, dislikes and pairs: from a CSV to the batches of a step.

prepare  Pick-a-Pic v2, converted to a CSV        images   one image, read from its file
table    a CSV, with errors that name the row      cache    images and captions, encoded once
index    the rows of a CSV, indexed on disk        store    arrays on disk, for the cache
check    the data, before training                 batches  the examples of each step
"""
