from xadflow.work.night.plan import _shards

VERSIONS = {"heatmap": "1", "sparse": "2"}
ALL = {name: ("project", f"{name}.png") for name in "abcde"}


def ids(shards) -> list[list[str]]:
    return [[image.image_id for image in shard] for shard in shards]


def test_everything_is_work_at_first_in_order_of_image_id() -> None:
    shards, already = _shards(dict(reversed(ALL.items())), {}, set(), VERSIONS, 2)
    assert ids(shards) == [["a", "b"], ["c", "d"], ["e"]]
    assert already == 0


def test_a_scored_normal_needs_nothing_and_an_explained_anomaly_neither() -> None:
    explained = {("b", "heatmap", "1"), ("b", "sparse", "2")}
    shards, already = _shards(ALL, {"a": False, "b": True}, explained, VERSIONS, 9)
    assert ids(shards) == [["c", "d", "e"]]
    assert already == 2


def test_a_new_explainer_version_runs_on_scored_anomalies_only() -> None:
    scored = {"a": False, "b": True, "c": True, "d": False, "e": False}
    explained = {(one, "heatmap", "1") for one in "bc"} | {("b", "sparse", "2"), ("c", "sparse", "1")}
    (shard,), already = _shards(ALL, scored, explained, VERSIONS, 9)
    assert [(image.image_id, image.scored, image.missing) for image in shard] == [("c", True, ("sparse",))]
    assert already == 4


def test_explained_but_not_scored_after_a_crash_still_gets_its_score() -> None:
    explained = {("a", "heatmap", "1"), ("a", "sparse", "2")}
    (shard,), _ = _shards({"a": ALL["a"]}, {}, explained, VERSIONS, 9)
    assert (shard[0].scored, shard[0].missing) == (False, ())
