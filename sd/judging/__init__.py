"""Which of several models is better: images, scores, win rates and votes.

prompts   reads prompts from a file             sample       draws images of them with a model
samples   reads folders of such images          scorers      reward models; weights reads their files
scoring   keeps scores, of many processes       score_pairs  a reward model's scores, as labels for SmPO
evaluate  scores and compares such folders      markdown     lays the results out as tables
page      images side by side and a blind vote  paths        judges the tiny pipeline along its training
study     compares objectives by such paths     trial        tries a utility of one's own on images
"""
