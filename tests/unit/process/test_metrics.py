from __future__ import annotations

import os
import re
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mirror import metrics as module
from mirror.metrics import (
    CONNECTIONS,
    CORRUPT,
    EVICTED,
    FAMILIES,
    HUB_REMAINING,
    LOGIN_REFUSED,
    RELOAD_OK,
    UPSTREAM_ERRORS,
    UPSTREAM_SECONDS,
    Family,
    Metrics,
)
from mirror.slots import CAPACITY, Slots


def read(metrics):
    """Return every sample as {(name, labels…): value}, by prometheus' own parser."""
    samples = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            key = (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items())))
            assert key not in samples
            samples[key] = sample.value
    return samples


@pytest.fixture
def slots():
    slots = Slots(3)
    yield slots
    slots.close()


def test_one_request_is_counted_in_every_family_it_belongs_to():
    metrics = Metrics(upstreams=["quay.io"])
    metrics.request("blob", "GET", 206, "HIT", "quay.io", 100, 0.003)
    metrics.request("blob", "GET", 206, "HIT", "quay.io", 50, 7.0)
    samples = read(metrics)
    labels = ("cache=HIT", "method=GET", "route=blob", "status=206")
    assert samples["mirror_requests_total", *labels] == 2
    assert samples["mirror_cache_answers_total", "cache=HIT", "upstream=quay.io"] == 2
    assert samples["mirror_sent_bytes_total", "cache=HIT", "upstream=quay.io"] == 150
    assert samples["mirror_request_seconds_sum", "cache=HIT", "route=blob"] == pytest.approx(7.003)
    assert samples["mirror_request_seconds_count", "cache=HIT", "route=blob"] == 2
    assert samples["mirror_request_seconds_bucket", "cache=HIT", "le=0.0025", "route=blob"] == 0
    assert samples["mirror_request_seconds_bucket", "cache=HIT", "le=0.005", "route=blob"] == 1
    assert samples["mirror_request_seconds_bucket", "cache=HIT", "le=10.0", "route=blob"] == 2


def test_what_a_client_could_multiply_is_bounded():
    metrics = Metrics(upstreams=["quay.io"])
    for number in range(10000):
        metrics.request("blob", f"M{number}", 404, "", f"host{number}", 0, 0.1)
        metrics.add(UPSTREAM_ERRORS, f"host{number}", "timeout")
    samples = read(metrics)
    assert samples["mirror_requests_total", "cache=", "method=other", "route=blob", "status=404"] == 10000
    assert samples["mirror_upstream_errors_total", "kind=timeout", "upstream="] == 10000


def test_series_are_bounded_even_if_we_multiply_them_ourselves(slots):
    metrics = Metrics(slots)
    for number in range(9000):
        metrics.add(CORRUPT, f"finder {number}")
        metrics.request(f"route {number}", "GET", 200, "", "", 0, 0.1)
    samples = read(metrics)
    assert samples["mirror_corrupt_blobs_total", "found_by=other"] > 1000
    assert sum(value for key, value in samples.items() if key[0] == "mirror_requests_total") == 9000
    assert len(slots.read(0)) < CAPACITY


def test_label_values_are_escaped():
    metrics = Metrics()
    metrics.add(CORRUPT, 'a"b\\c\nd')
    assert b'found_by="a\\"b\\\\c\\nd"' in metrics.render()


def test_a_wrong_number_of_labels_is_a_mistake():
    with pytest.raises(ValueError, match="mirror_evicted_blobs_total"):
        Metrics().add(EVICTED, "x")


def test_counters_and_histograms_are_summed_over_workers(slots):
    first, second = Metrics(slots, 0, ["quay.io"]), Metrics(slots, 1, ["quay.io"])
    for metrics, times in ((first, 2), (second, 3)):
        for _ in range(times):
            metrics.request("blob", "GET", 200, "HIT", "quay.io", 10, 0.1)
            metrics.add(EVICTED)
            metrics.observe(UPSTREAM_SECONDS, "quay.io", value=2)
    second.fold()
    samples = read(first)
    assert samples["mirror_cache_answers_total", "cache=HIT", "upstream=quay.io"] == 5
    assert samples["mirror_evicted_blobs_total",] == 5
    assert samples["mirror_upstream_request_seconds_sum", "upstream=quay.io"] == 10
    assert samples["mirror_upstream_request_seconds_bucket", "le=2.5", "upstream=quay.io"] == 5
    again = read(second)
    assert again.pop(("mirror_cpu_seconds_total",)) >= samples.pop(("mirror_cpu_seconds_total",)) > 0
    assert again == samples


def test_gauges_are_joined_as_their_family_says(slots):
    first, second = Metrics(slots, 0, ["quay.io"]), Metrics(slots, 1, ["quay.io"])
    for metrics, value in ((second, 3), (first, 5)):
        metrics.add(CONNECTIONS, by=value)
        metrics.set(RELOAD_OK, to=value)
        metrics.set(HUB_REMAINING, to=value)
        metrics.set(LOGIN_REFUSED, "quay.io", to=value)
        time.sleep(0.001)
    second.set(LOGIN_REFUSED, "quay.io", to=0)
    second.fold()
    samples = read(first)
    assert samples["mirror_connections",] == 8
    assert samples["mirror_config_reload_ok",] == 3
    assert samples["mirror_docker_hub_pulls_remaining",] == 5
    assert samples["mirror_upstream_login_refused", "upstream=quay.io"] == 0
    assert samples["mirror_worker_memory_peak_bytes",] > 1 << 20


def test_a_replacement_goes_on_from_the_counters_but_not_the_gauges(slots):
    died = Metrics(slots, 0, ["quay.io"])
    other = Metrics(slots, 1, ["quay.io"])
    died.request("blob", "GET", 200, "HIT", "quay.io", 10, 0.1)
    died.add(CONNECTIONS, by=7)
    died.add(EVICTED, by=4)
    died.fold()
    assert read(other)["mirror_connections",] == 7
    replacement = Metrics(slots, 0, ["quay.io"])
    replacement.request("blob", "GET", 200, "HIT", "quay.io", 10, 0.1)
    replacement.fold()
    samples = read(other)
    assert ("mirror_connections",) not in samples
    assert samples["mirror_evicted_blobs_total",] == 4
    assert samples["mirror_cache_answers_total", "cache=HIT", "upstream=quay.io"] == 2
    assert samples["mirror_request_seconds_count", "cache=HIT", "route=blob"] == 2


def test_processes_really_share(slots):
    pids = []
    for index in (0, 1):
        pid = os.fork()
        if pid == 0:
            metrics = Metrics(slots, index)
            for _ in range(index + 1):
                metrics.add(EVICTED)
            metrics.fold()
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    assert read(Metrics(slots, 2))["mirror_evicted_blobs_total",] == 3


def test_threads_lose_no_count():
    metrics = Metrics()
    stop = threading.Event()

    def render():
        while not stop.is_set():
            metrics.render()

    rendering = threading.Thread(target=render)
    rendering.start()
    adding = [threading.Thread(target=lambda: [metrics.add(EVICTED) for _ in range(5000)]) for _ in range(4)]
    for thread in adding:
        thread.start()
    for number in range(500):
        metrics.request("blob", "GET", number, "HIT", "", 1, 0.1)
    for thread in adding:
        thread.join()
    stop.set()
    rendering.join()
    samples = read(metrics)
    assert samples["mirror_evicted_blobs_total",] == 20000
    assert samples["mirror_sent_bytes_total", "cache=HIT", "upstream="] == 500


def test_a_slot_is_read_whole_while_it_is_written(slots):
    """One process writes snapshots that are of one letter each, another must never read a mixture."""
    pid = os.fork()
    if pid == 0:
        for number in range(3000):
            slots.write(0, bytes([number % 26 + 97]) * (40000 + number * 7 % 5000))
        os._exit(0)
    seen = 0
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        snapshot = slots.read(0)
        seen += bool(snapshot)
        assert len(set(snapshot)) <= 1
    assert seen > 10
    assert set(slots.read(0)) == {2999 % 26 + 97}


def test_a_slot_keeps_its_last_snapshot_when_one_is_too_large(slots):
    assert slots.read(1) == b""
    assert slots.write(1, b"whole")
    assert not slots.write(1, bytes(CAPACITY))
    assert slots.read(1) == b"whole"
    assert slots.read(0) == b""


def test_a_torn_snapshot_is_not_believed(slots):
    slots.write(0, b"first")
    start = slots._map.find(b"first")
    slots._map[start] = ord("F")
    assert slots.read(0) == b""


def test_every_family_is_listed_and_named_by_the_conventions():
    declared = [value for value in vars(module).values() if isinstance(value, Family)]
    assert sorted(declared, key=id) == sorted(FAMILIES, key=id)
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert re.fullmatch(r"mirror_[a-z_]+", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert bool(family.buckets) == (family.kind == "histogram")
        assert family.help.endswith(".") or family is module.INFO
