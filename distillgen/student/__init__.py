"""The student: trained on a version, and measured against its teacher and what it was before (extra `student`)."""

import importlib.util

from distillgen.errors import ExtraMissing

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "gguf")
INSTALL = "pip install 'distillgen[student]'"
# On Linux the package index has PyTorch built for CUDA alone, several gigabytes of it.
SMALLER = "without a GPU first: pip install torch --index-url https://download.pytorch.org/whl/cpu"


def require_student() -> None:
    """Raise ExtraMissing with the exact commands when a package that trains or asks a student is not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExtraMissing(
            f"training and measuring a student need {', '.join(missing)}", fix=f"{INSTALL}   ({SMALLER})"
        )
