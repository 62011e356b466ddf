"""`ljsv metrics`, read by Prometheus' own parser."""

from __future__ import annotations

import os

from prometheus_client.parser import text_string_to_metric_families

from ljsv.cli.metrics_verb import FAMILIES
from tests.conftest import Tree, wait_for

Samples = dict[tuple[str, str, str], float]


def parse(text: str) -> Samples:
    """(name, service, state): value; each family is declared as it is described, and has no sample twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        kind, meaning = FAMILIES.get(family.name) or FAMILIES[f"{family.name}_total"]
        assert (family.type, family.documentation) == (kind, meaning)
        for sample in family.samples:
            key = sample.name, sample.labels.get("service", ""), sample.labels.get("state", "")
            assert key not in found, key
            found[key] = sample.value
    return found


def test_states_restarts_and_times(scanning: Tree) -> None:
    """One service of each kind; what does not apply is left out."""
    scanning.add("runs")
    scanning.add("fails", "exit 7", policy='[restart]\ndelay = "50s"\n')
    scanning.add("dies", "sleep 0.1", policy='[restart]\ndelay = "100ms"\nmax_delay = "100ms"\n')
    scanning.add('q"u\\ote', down="")
    scanning.wait_state("runs", "ready")
    scanning.wait_state("fails", "backoff")
    scanning.wait_state('q"u\\ote', "down")
    wait_for(lambda: int(scanning.detail("dies").get("restarts", 0)) > 1, "restarts")
    found = parse(scanning.ljsv("metrics").stdout)
    assert found["ljsv_scanner_running", "", ""] == 1 and found["ljsv_info", "", ""] == 1
    states = {(service, state) for (name, service, state), value in found.items() if name == "ljsv_service_state" and value == 1}
    assert {("runs", "ready"), ("fails", "backoff"), ('q"u\\ote', "down")} < states and len(states) == 4
    assert found["ljsv_service_pid", "runs", ""] == scanning.pid("runs") and ("ljsv_service_pid", "fails", "") not in found
    assert found["ljsv_service_last_exit_code", "fails", ""] == 7 and 0 < found["ljsv_service_next_try_seconds", "fails", ""] <= 50
    assert found["ljsv_service_restarts_total", "dies", ""] >= 2 and found["ljsv_service_restarts_total", "runs", ""] == 0
    assert 0 < found["ljsv_service_ready_after_seconds", "runs", ""] < 60
    assert found["ljsv_service_resident_bytes", "runs", ""] > 100_000


def test_time_to_ready_is_that_of_the_service(scanning: Tree) -> None:
    """Of one that says itself when it is."""
    scanning.add("web", "sleep 1; echo >&3; exec sleep 1000", policy='[ready]\nby = "fd"\n')
    scanning.wait_state("web", "ready")
    assert 1 <= parse(scanning.ljsv("metrics", "web").stdout)["ljsv_service_ready_after_seconds", "web", ""] < 60
    (text,) = scanning.ljsv("status", "web", "-o", "ready_after_s").stdout.splitlines()
    assert float(text) >= 1


def test_into_a_file_and_with_no_scanner(tree: Tree) -> None:
    """As node_exporter reads it; a place that cannot be written is named, and nothing is left there."""
    tree.add("web")
    tree.ljsv("metrics", "--to", "ljsv.prom")
    found = parse((tree.root / "ljsv.prom").read_text())
    assert found["ljsv_scanner_running", "", ""] == 0 and found["ljsv_service_state", "web", "unsupervised"] == 1
    done = tree.ljsv("metrics", "--to", "nowhere/ljsv.prom", code=111)
    assert "cannot write the metrics: nowhere/ljsv.prom: No such file or directory\nhint: ls -ld nowhere" in done.stderr
    (tree.root / "folder").mkdir()
    os.chown(tree.root / "folder", tree.uid, tree.uid)
    assert "Is a directory" in tree.ljsv("metrics", "--to", "folder", code=111).stderr
    assert not list(tree.root.glob("*.new"))
