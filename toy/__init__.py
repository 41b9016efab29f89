"""The 2-D laboratory, and the losses that Stable Diffusion training shares with it.

start here      plain: one run, one loop, nothing hidden
the method      losses, utilities, objectives (one table of what each needs), diffusion
the laboratory  data, model, batches, train (plain.py for many runs at once), optimizer, metrics,
                study, paths, breaks, pretrained, report, plots, experiments (the commands), bench
tools           cli, statistics, seeds, files, errors
"""
