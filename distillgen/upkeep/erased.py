"""Rows that were erased elsewhere: what a version that came from there tells of them keeps them out of builds here."""

import time
from pathlib import Path

from distillgen.dataset.versions import Version
from distillgen.excluded import is_id, put_on_record
from distillgen.upkeep.rewriting import erased_in


def keep_out(home: Path, version: Version) -> list[str]:
    """Have later builds of a dataset leave out what a version tells of as erased; return what was not on record yet.

    `home` is the dataset's folder, the version may lie elsewhere still. What cannot be an id is passed over. Raises
    Damaged, DiskFull or NotWritable.
    """
    date = time.strftime("%Y-%m-%d", time.gmtime())
    return put_on_record(home, filter(is_id, erased_in(version)), f"erased where it was pulled from; {date}")
