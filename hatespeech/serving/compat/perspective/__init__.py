"""Google's Perspective API, which its clients know as the Comment Analyzer API, v1alpha1.

google.py        paths, keys, and Google's form of an error
errors.py        the errors that Perspective alone has
requests.py      reads ``AnalyzeCommentRequest``
analysis.py      the texts that a request needs scored, and the reply made of their scores
sentences.py     sentences, and places in UTF-16 code units
batch.py         many requests in one body of MIME parts
suggestions.py   ``comments:suggestscore``: an operator's file, or a refusal
routes.py        the routes
discovery.json   what Google's client libraries ask for first
"""
