"""The quality gate: what a version must reach to be published."""

from distillgen.settings import GateSettings


def what_is_missing(
    gate: GateSettings, *, rows: int, published: int, rejected: int, failed: int, agreement: float | None,
    score: float | None,
) -> list[str]:  # fmt: skip
    """Return in what a version falls short of its gate, in words; nothing when it may pass.

    `rows` are those of the version; the shares are of the rows that this run decided: published, rejected and failed.
    """
    ended = published + rejected + failed
    short = []
    if gate.min_rows is not None and rows < gate.min_rows:
        short.append(f"{rows:,} rows, wants {gate.min_rows:,} (min_rows)")
    for name, count in (("rejected", rejected), ("failed", failed)):
        most = getattr(gate, f"max_{name}")
        if most is not None and ended and count / ended > most:
            share = f"{count / ended:.1%} of {ended:,} rows"
            short.append(f"{share} were {name}, may be {most:.1%} (max_{name})")
    for name, mean in (("agreement", agreement), ("score", score)):
        least = getattr(gate, f"min_{name}")
        if least is None:
            continue
        if mean is None:
            short.append(f"no published row has a figure for {name} (min_{name})")
        elif mean < least:
            short.append(f"mean {name} {mean:.3g}, wants {least:g} (min_{name})")
    return short
