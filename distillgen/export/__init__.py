"""Versions in the formats that trainers and people take."""
