"""Mixes published versions into a new one: which rows, how many of each, in which order, and under whose terms."""
