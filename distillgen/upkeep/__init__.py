"""Keeping versions whole: check, repair, reclaim space, take rows out."""
