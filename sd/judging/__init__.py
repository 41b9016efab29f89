"""Which model is better: images, scores, win rates, votes.

prompts   prompts from a file                  sample       images of them
samples   folders of images, read              scorers      reward models; weights reads theirs
evaluate  folders compared                     markdown     the table
page      images side by side, a blind vote    score_pairs  a reward model's scores as SmPO's labels
study     every objective on the tiny pipeline, judged
"""
