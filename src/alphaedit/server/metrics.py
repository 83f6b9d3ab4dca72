"""Counts of a service as Prometheus reads them."""

from __future__ import annotations

from alphaedit.jobs.serve import Service

HELP = {
    "requests_total": ("counter", "Requests by model and outcome."),
    "tokens_total": ("counter", "Tokens read (prompt) and written (completion) by model."),
    "batches_total": ("counter", "Batches that were run."),
    "rows_total": ("counter", "Requests in those batches."),
    "switches_total": ("counter", "How often the edits of another ledger were brought into force."),
    "switch_seconds_total": ("counter", "Seconds that took."),
    "waiting": ("gauge", "Requests that wait."),
    "running": ("gauge", "Requests that are answered now."),
}
LABELS = {"requests": ("model", "outcome"), "tokens": ("model", "kind")}


def metrics_text(service: Service) -> str:
    """All of them, each with its help."""
    status, models = service.status(), service.models
    values: dict[str, dict[str, float]] = {name: {} for name in HELP}
    for (name, *labels), count in service.counted().items():
        values[f"{name}_total"][_labels(LABELS.get(name, ()), labels)] = count
    values["switches_total"][""] = models.switches
    values["switch_seconds_total"][""] = models.switch_seconds
    for name in ("waiting", "running"):
        values[name][""] = status[name]
    lines = []
    for name, (kind, text) in HELP.items():
        lines += [f"# HELP alphaedit_{name} {text}", f"# TYPE alphaedit_{name} {kind}"]
        lines += [f"alphaedit_{name}{labels} {value}" for labels, value in values[name].items()]
    return "\n".join(lines) + "\n"


def _labels(names: tuple[str, ...], values: list[str]) -> str:
    if not names:
        return ""
    escaped = [v.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for v in values]
    pairs = ",".join(f'{name}="{value}"' for name, value in zip(names, escaped, strict=True))
    return f"{{{pairs}}}"
