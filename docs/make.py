"""Writes every generated page and the snapshots of the help anew; `--check` exits 1 and names those that are stale."""

import sys
from pathlib import Path

import make_prompts
import make_reference

DOCS = Path(__file__).resolve().parent


def pages() -> dict[Path, str]:
    """Return what is generated: file -> text."""
    return {
        DOCS / "prompts.md": make_prompts.page(),
        DOCS / "cli.md": make_reference.cli_page(),
        DOCS / "recipe-keys.md": make_reference.keys_page(),
        **{DOCS.parent / "tests" / "data" / "help" / name: text for name, text in make_reference.helps_shown()},
    }


def main() -> None:
    """Write what is stale, or name it."""
    stale = {
        path: text for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    if "--check" in sys.argv:
        if stale:
            names = ", ".join(str(path.relative_to(DOCS.parent)) for path in stale)
            sys.exit(f"stale: {names}; run `make docs`")
        return
    for path, text in stale.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(DOCS.parent)}")


if __name__ == "__main__":
    main()
