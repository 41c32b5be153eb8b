"""distillgen: seed prompts and a teacher model in, versioned JSONL datasets for training a student out.

>>> from distillgen import build, load
>>> built = build("recipe.toml", budget=2.50)
>>> for row in load("demo@1"): ...
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Built", "Dataset", "DistillgenError", "__version__", "build", "load", "plan"]

if TYPE_CHECKING:
    from distillgen.api import Built, Dataset, build, load, plan
    from distillgen.errors import DistillgenError


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: `import distillgen` and every `--help` stay light."""
    if name == "DistillgenError":
        from distillgen.errors import DistillgenError

        return DistillgenError
    if name in __all__:
        from distillgen import api

        return getattr(api, name)
    raise AttributeError(f"module 'distillgen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
