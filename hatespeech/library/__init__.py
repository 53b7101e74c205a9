"""The library: the engine for notebooks and programs.

classifier.py   Classifier: load a model, score texts from any number of threads
frames.py       a DataFrame in, the same DataFrame with scores out
"""
