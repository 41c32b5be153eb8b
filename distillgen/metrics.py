"""A run's figures as OpenMetrics text, for the textfile collector of a node exporter."""

from collections.abc import Iterator
from pathlib import Path

from distillgen.files import write_atomically
from distillgen.last_run import LastRun


def write_metrics(run: LastRun, path: Path) -> None:
    """Write a file that a collector finds whole or not at all. Raises NotWritable or DiskFull."""
    from prometheus_client import CollectorRegistry, Gauge
    from prometheus_client.openmetrics.exposition import generate_latest

    registry = CollectorRegistry()
    labels = {"recipe": run.recipe, "dataset": run.dataset or ""}
    for name, means, value in _figures(run):
        Gauge(f"distillgen_last_run_{name}", means, labels, registry=registry).labels(**labels).set(value)
    write_atomically(path, generate_latest(registry))  # type: ignore[no-untyped-call]


def _figures(run: LastRun) -> Iterator[tuple[str, str, float]]:
    """Yield name, meaning and value. All are gauges: both the OpenMetrics and the older Prometheus format read them."""
    yield "start_timestamp_seconds", "When the last run began.", run.started
    yield "end_timestamp_seconds", "When the last run ended.", run.finished
    if run.last_success is not None:
        yield "success_timestamp_seconds", "When a run last ended with exit status 0.", run.last_success
    yield "exit_status", "Its exit status.", run.exit_status
    yield "seeds", "Seeds that were read.", run.seeds
    yield "rows", "Rows that were published, or would have been.", run.rows
    yield "rejected_rows", "Rows that a rule rejected.", run.rejected
    yield "failed_rows", "Rows without an answer.", run.failed
    yield "calls", "Completions that were asked of teachers.", run.calls
    yield "prompt_tokens", "Tokens sent.", run.prompt_tokens
    yield "completion_tokens", "Tokens received.", run.completion_tokens
    yield "cost_usd", "What the calls of known price cost, in dollars.", run.usd
    yield "unpriced_calls", "Calls whose price is not known.", run.unpriced_calls
