"""The 2-D laboratory, and the losses that Stable Diffusion training shares with it.

start here      plain        one run, one loop, nothing hidden
the method      losses       the losses, on nothing but denoising errors
                utilities    U(x), and loading your own
                objectives   one table: what each objective needs; the settings of a run
                diffusion    schedules, noise, DDIM, inversion
the laboratory  data         2-D worlds, likes and dislikes
                model        the MLP, many side by side
                batches      the examples of each step
                train        pretrain and align: plain.py for many runs at once
                optimizer    Adam for many runs
                metrics      how good samples are
                study        many runs over many seeds
                pretrained   pretrained models, kept between commands
                report       tables and sentences
                plots        every picture
                experiments  one function for each command
                bench        speed
tools           cli          the command line of toy and sd
                statistics   means, win rates, intervals
                seeds        random numbers
                files        whole files or none
                errors       bad input in one line
"""
