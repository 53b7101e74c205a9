"""Evaluation, ``evaluate.py``: a labelled file in; figures, thresholds and a page out.

    command.py        the command line, the order of the steps, the summary
    truths.py         what a label says in terms of the four; names of other data sets
    labelled.py       reads labelled files
    scoring.py        scores them by an engine of score.py, or reads its columns
    results.py        the figures of labelled and scored texts
    groups.py         figures by group, and the largest gaps
    agreement.py      how far annotators agree
    choices.py        thresholds for a wish, and their file
    comparison.py     our scores beside another service's
    swap.py           names of groups in the same sentences
    card.py           the figures in a checkpoint's model card
    page.py           the HTML page of --report

    figures.py        accuracy, precision, recall, F1 over texts with one of the four labels
    intervals.py      estimates with their intervals
    calibration.py    temperature, biases, calibration error
    thresholds.py     recommended thresholds, and what a threshold finds
    pictures.py       pictures for a model card and for the page

Training measures its checkpoints with the modules of the second group.
"""
