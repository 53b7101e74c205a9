"""The pages that commands write: self-contained files, without a script.

frame.py            the page around a report, its style, tables
charts.py           histograms and curves as SVG
visible.py          characters that a page must not hold raw, as marks that a reader sees
label_colours.css   the colour of each label, also on ``/demo``
"""
