"""distillgen: seed prompts and a teacher model in, versioned JSONL datasets for training a student out."""

__version__ = "0.1.0"
