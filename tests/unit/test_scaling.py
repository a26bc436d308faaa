"""How many workers a queue asks for, and what Prometheus reads of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from analysis.metrics import BUCKETS_S, Family, TaskMetrics, of_queues, text
from analysis.scaling import Policy, wanted
from pacs.server import cli
from pacs.workforce import Post, Queued

POLICY = Policy(per_worker=4, oldest_s=60, idle_s=30, least=0, most=3)


def queued(waiting: int = 0, oldest_s: float = 0, running: int = 0, dead: int = 0, posts: int = 0) -> Queued:
    made = tuple(Post(f"w{number}", {"bone": "1.0"}, "cpu", 1) for number in range(posts))
    return Queued("bone", waiting, oldest_s, 0, running, dead, made)


@pytest.mark.parametrize(
    ("queue", "have", "calm_s", "number"),
    [
        (queued(), 0, 1e6, 0),
        (queued(waiting=1), 0, 0, 1),
        (queued(waiting=4), 1, 0, 1),
        (queued(waiting=4, running=1), 1, 0, 2),
        (queued(waiting=1000), 0, 0, 3),  # never more than the most
        (queued(waiting=1, oldest_s=61), 1, 0, 2),  # one that waits too long asks for one more, each round
        (queued(waiting=1, oldest_s=61), 2, 0, 3),
        (queued(), 2, 29, 2),  # none goes before the calm has lasted
        (queued(), 2, 30, 0),
        (queued(running=2), 3, 30, 2),  # nor while it has something to do
    ],
)
def test_workers_follow_the_queue(queue: Queued, have: int, calm_s: float, number: int) -> None:
    assert wanted(queue, have, calm_s, POLICY) == number


def test_the_least_is_kept() -> None:
    assert wanted(queued(), 0, 1e6, Policy(least=2, most=4)) == 2


def parsed(exposition: str) -> dict[str, float]:
    """Every sample, by name and labels, of text that has the form of Prometheus' format 0.0.4."""
    samples = {}
    kinds = {}
    for line in exposition.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert kind in ("counter", "gauge", "histogram")
            assert name not in kinds, "each family has to stand together"
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            label = r'[a-z]+="(?:[^"\\\n]|\\.)*"'
            found = re.fullmatch(rf"([a-z_0-9]+)(\{{{label}(?:,{label})*\}})? (\S+)", line)
            assert found, line
            assert any(found[1] in (name, f"{name}_bucket", f"{name}_sum", f"{name}_count") for name in kinds), line
            samples[found[1] + (found[2] or "")] = float(found[3])
    assert exposition.endswith("\n")
    return samples


def test_what_waits_is_told_to_prometheus() -> None:
    samples = parsed(text(of_queues([queued(waiting=7, oldest_s=12.5, running=2, dead=1, posts=3)])))
    assert samples['m3dicom_tasks_waiting{plugin="bone"}'] == 7
    assert samples['m3dicom_tasks_oldest_waiting_seconds{plugin="bone"}'] == 12.5
    assert samples['m3dicom_tasks_running{plugin="bone"}'] == 2
    assert samples['m3dicom_tasks_dead{plugin="bone"}'] == 1
    assert samples['m3dicom_tasks_workers{plugin="bone"}'] == 3
    assert text(of_queues([])) == ""


def test_runs_are_counted_by_outcome_and_time() -> None:
    metrics = TaskMetrics()
    for outcome, seconds in (("completed", 0.3), ("completed", 40.0), ("failed", 0.01)):
        metrics.ended("bone", outcome, seconds)
    samples = parsed(text(metrics.families()))
    assert samples['m3dicom_task_runs_total{plugin="bone",outcome="completed"}'] == 2
    assert samples['m3dicom_task_runs_total{plugin="bone",outcome="failed"}'] == 1
    buckets = [samples[f'm3dicom_task_run_seconds_bucket{{plugin="bone",le="{bucket:g}"}}'] for bucket in BUCKETS_S]
    assert buckets == sorted(buckets)
    assert (buckets[0], buckets[-1]) == (1, 3)
    assert samples['m3dicom_task_run_seconds_bucket{plugin="bone",le="+Inf"}'] == 3
    assert samples['m3dicom_task_run_seconds_sum{plugin="bone"}'] == pytest.approx(40.31)


def test_labels_are_escaped() -> None:
    assert 'name="a\\"b\\\\c\\nd"' in text([Family("x", "gauge", "An x.", [({"name": 'a"b\\c\nd'}, 1)])])


@pytest.mark.parametrize(
    "wrong",
    ["--every-s=0", "--every-s=inf", "--every-s=nan", "--oldest-s=nan", "--idle-s=-1", "--most=-1", "--least=3"],
)
def test_a_scaler_that_could_not_work_is_refused(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("INDEX", "postgresql://nowhere/x"), ("OBJECTS", "s3://none/x"), ("QUEUE", "redis://nowhere")):
        monkeypatch.setenv(f"M3DICOM_{name}", value)
    assert cli.main(["scale", "--data", str(tmp_path), wrong]) == 1
    assert "--most" in (said := capsys.readouterr().err) or "--every-s is more than 0" in said


def test_hostile_names_stay_within_their_label() -> None:
    samples = parsed(text([Family("x", "gauge", "An x.", [({"plugin": 'a"} 1\nevil{b="\\'}, 7)])]))
    assert list(samples.values()) == [7]
