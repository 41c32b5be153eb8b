"""Measures `forget` and `gc` on a dataset of two versions: seconds and memory, against hashing its data files.

The floor hashes the data files of both versions as `sha256sum` does, in the same run. `forget` erases a row that both
hold; `gc` removes the older version. Prints a table; figures with date and machine: README.md.
"""

import argparse
import tempfile
import time
from pathlib import Path

import orjson
from check import command
from versions import publish

from distillgen.files import file_sha256, read_jsonl


def main() -> None:
    """Publish, hash, forget, collect; print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        home = folder / "datasets" / "bench"
        for changed in (0, 1):
            publish(home, range(rows), changed=changed)
        versions = [home / "v0001", home / "v0002"]
        row = next(iter(read_jsonl(versions[0] / "provenance.jsonl.zst")))["id"]
        started = time.perf_counter()
        for version in versions:
            for file in sorted((version / "data").iterdir()):
                file_sha256(file)
        floor = time.perf_counter() - started
        print(f"| two versions of {rows:,} rows | s | times the floor | most memory, MB |")
        print("|---|---:|---:|---:|")
        print(f"| sha256 of all data files, one process: the floor | {floor:.2f} | 1 | |", flush=True)
        for arguments in (
            ["forget", row], ["forget", row, "--yes"], ["gc", "--keep", "1"],
            ["gc", "--keep", "1", "--yes"],
        ):  # fmt: skip
            seconds, peak = command(*arguments, project=folder)
            shown = " ".join(arguments).replace(row, "ID")
            print(f"| `{shown}` | {seconds:.2f} | {seconds / floor:.0f} | {peak:,.0f} |", flush=True)
        left = [each for each in home.glob("v*") if orjson.loads((each / "manifest.json").read_bytes())["forgotten"]]
        assert left == versions[1:]


if __name__ == "__main__":
    main()
