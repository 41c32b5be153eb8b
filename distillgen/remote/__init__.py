"""Versions to another place and back: the Hugging Face Hub, and any store that fsspec reaches."""
