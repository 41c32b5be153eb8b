"""Bundles: a version as one trainer wants it, with the configuration that trainer wants beside the data."""

from distillgen.export.trainers.bundles import bundle
from distillgen.export.trainers.table import TRAINERS, Shape, Trainer

__all__ = ["TRAINERS", "Shape", "Trainer", "bundle"]
