"""Texts to scores on one device, for one caller or many."""
