"""Grouping and union-find on disk, against dictionaries and sets."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hexareme.data.clean import key_groups
from hexareme.data.clean.clusters import Clusters
from hexareme.data.clean.key_groups import KeyPartitions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def grouped(folder: Path, keys: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    partitions = KeyPartitions(folder, most=most)
    for begin in range(0, len(keys), 1000):
        partitions.add(keys[begin:begin + 1000], np.arange(begin, min(begin + 1000, len(keys)), dtype=np.uint64))
    result, before = [], 0
    for groups in partitions.groups():
        _, group = np.unique(groups.group, return_inverse=True)
        assert (np.diff(groups.group) >= 0).all()
        result += zip(groups.first.tolist(), groups.member.tolist(), (group + before).tolist(), strict=True)
        before += len(np.unique(group))
    assert not folder.exists()
    return result


def truth(keys: np.ndarray) -> dict[int, list[int]]:
    places = defaultdict(list)
    for place, key in enumerate(keys.tolist()):
        places[key].append(place)
    return {each[0]: each[1:] for each in places.values() if len(each) > 1}


@pytest.mark.parametrize("most", [50, 3000, 10**6])
@pytest.mark.parametrize("kind", ["few", "many", "one", "nearly_one", "low_bits"])
def test_groups_are_those_of_a_dictionary_for_any_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, most: int):
    monkeypatch.setattr(key_groups, "MOST_TOGETHER", 64)
    chance = np.random.default_rng(3)
    keys = {"few": chance.integers(0, 40, 5000, np.uint64) << np.uint64(57), "many": chance.integers(0, 2**64, 5000, np.uint64),
            "one": np.full(5000, 7, np.uint64), "nearly_one": np.where(chance.random(5000) < 0.01, 8, 7).astype(np.uint64),
            "low_bits": chance.integers(0, 3000, 5000, np.uint64)}[kind]
    found = grouped(tmp_path / "pairs", keys, most)
    members = defaultdict(list)
    together = defaultdict(list)
    for first, member, group in found:
        members[first].append(member)
        together[group].append((first, member))
    assert dict(members) == truth(keys)
    assert all(len({first for first, _ in each}) == 1 and len(each) <= 64 for each in together.values())
    assert found == grouped(tmp_path / "pairs", keys, 10**6), "the same for any memory"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=25), max_size=4))
def test_clusters_are_the_connected_components(tmp_path: Path, batches: list[list[tuple[int, int]]]):
    clusters = Clusters(tmp_path / "kept", 61)
    component = {number: {number} for number in range(61)}
    for batch in batches:
        clusters.join(np.array([one for one, _ in batch], np.int64), np.array([other for _, other in batch], np.int64))
        for one, other in batch:
            union = component[one] | component[other]
            component.update(dict.fromkeys(union, union))
        assert clusters.roots(np.arange(61)).tolist() == [min(component[number]) for number in range(61)]
    assert clusters.flatten().tolist() == [min(component[number]) for number in range(61)]


@pytest.mark.parametrize("order", ["up", "down", "mixed", "one_by_one"])
def test_a_long_chain_is_no_quadratic_work(tmp_path: Path, order: str):
    count = 300_000 if order != "one_by_one" else 20_000
    clusters, links = Clusters(tmp_path / "kept", count), np.arange(count - 1)
    if order == "down":
        links = links[::-1]
    elif order == "mixed":
        links = np.random.default_rng(0).permutation(links)
    for part in np.array_split(links, 1 if order != "one_by_one" else 2000):
        clusters.join(part, part + 1)
    assert not clusters.flatten().any()
