"""One file for each lesson, one function for each exercise, under the name of its check."""
