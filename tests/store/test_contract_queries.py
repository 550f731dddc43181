"""What can be asked of a store: pages that neither lose nor repeat, contents that are needed, the last samples."""

import pytest

from fleet.model.nodes import Registration
from fleet.server.commands import CancelJob, DeleteArtifact, DeleteJob, InstallJob, RegisterNode, RemoveNode
from fleet.server.queries import (
    ArtifactQuery,
    ArtifactsQuery,
    ArtifactUseQuery,
    ChangesQuery,
    ContentsQuery,
    ExecutionsQuery,
    Figures,
    FiguresQuery,
    JobsQuery,
    NodeIdsQuery,
    NodeJobQuery,
    NodeQuery,
    NodesQuery,
    Sample,
    WaitingQuery,
    encode_cursor,
)
from fleet.server.samples import SampleBlock, unpack
from tests.store.stores import an_artifact, creating, putting, registering, reporting

NODES = tuple(f"n{index}" for index in range(7))


@pytest.fixture
def filled(store):
    store.running_job("j1", nodes=NODES)
    store.running_job("j2", nodes=NODES)
    for index in range(3, 8):
        store.ok(creating(f"j{index}", at=20 + index // 2))  # two at a time are of the same age
        store.ok(putting(an_artifact(f"a{index}.whl", str(index))))
    return store


LISTS = {
    "nodes": (NodesQuery, (), lambda item: item.node.node_id, list(NODES)),
    "jobs": (JobsQuery, (), lambda item: item.job.job_id, ["j7", "j6", "j5", "j4", "j3", "j2", "j1"]),
    "executions": (ExecutionsQuery, ("j1",), lambda item: item.node_id, list(NODES)),
    "waiting": (
        WaitingQuery,
        (),
        lambda item: (item.job_id, item.node_id),
        [(job, node) for job in ("j1", "j2") for node in NODES],
    ),
    "artifacts": (ArtifactsQuery, (), lambda item: item.name, [f"a{index}.whl" for index in range(3, 8)]),
    "contents": (ContentsQuery, (), lambda item: item[0], ["3", "4", "5", "6", "7"]),
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("limit", [1, 2, 5, 7, 1000])
def test_pages_of_any_size_show_each_item_once_and_in_order(filled, name, limit):
    kind, args, key, expected = LISTS[name]

    assert [key(item) for item in filled.all(kind, *args, limit=limit)] == expected


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("cursor", ["", "x", "e30", "!!!", "ü", encode_cursor(1 << 70), encode_cursor(None, None)])
def test_a_cursor_that_is_none_of_ours_is_an_invalid_page(filled, name, cursor):
    kind, args, _key, _expected = LISTS[name]

    page = filled.ask(kind(*args, after=cursor))

    assert (page.status, page.items) == ("invalid", ())
    assert "cursor" in page.detail


def test_a_node_is_told_of_what_waits_for_it_alone(filled):
    filled.ok(reporting(1, "succeeded", node="n3", job="j1"))

    assert [item.job_id for item in filled.all(WaitingQuery, node_id="n3")] == ["j2"]
    assert [item.job_id for item in filled.all(WaitingQuery, node_id="n4")] == ["j1", "j2"]
    assert filled.all(WaitingQuery, node_id="nobody") == []


def test_a_node_fetches_its_job_with_its_execution(filled):
    item = filled.one(NodeJobQuery("j1", "n1"))

    assert (item.job.spec.name, item.execution.state, item.execution.attempt) == ("update", "pending", 1)
    assert filled.one(NodeJobQuery("j1", "nobody")) is None
    assert filled.one(NodeJobQuery("j3", "n1")) is None


def test_the_figures_count_everything_and_each_content_once(filled):
    filled.ok(putting(an_artifact("same-as-a7.whl", "7")))

    assert filled.one(FiguresQuery()) == Figures(7, {"running": 2, "created": 5}, 6, 500)


def test_the_feed_can_be_read_after_a_cursor_and_goes_on_from_there(filled):
    first = filled.ask(ChangesQuery(limit=10))
    second = filled.ask(ChangesQuery(after=first.next))

    assert [*first.items, *second.items] == filled.changes
    assert filled.ask(ChangesQuery(after=second.next)).items == ()
    filled.ok(registering("n1", 50))
    assert filled.ask(ChangesQuery(after=second.next)).items == (filled.changes[-1],)


@pytest.mark.parametrize("limit", [1, 3, 100])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["n0", "n1", "n2", "n3", "n4", "n5"]),
        ({"group": "even"}, ["n0", "n2", "n4"]),
        ({"group": "none"}, []),
        ({"text": "HOST-1"}, ["n1", "n4"]),
        ({"text": "n"}, ["n0", "n1", "n2", "n3", "n4", "n5"]),
        ({"text": "%"}, []),
        ({"group": "even", "text": "host-1"}, ["n4"]),
    ],
)
def test_nodes_are_found_by_group_and_text(disk, query, expected, limit):
    store = disk.open()
    for number in range(6):
        groups = ("even", "all") if number % 2 == 0 else ("odd", "all")
        for at in (1, 2):  # registering again changes nothing
            registration = Registration(f"n{number}", f"Host-{number % 3}", groups=groups)
            store.ok(RegisterNode(at, registration, "192.0.2.1", 5683))
    store = disk.open()

    assert [item.node.node_id for item in store.all(NodesQuery, limit=limit, **query)] == expected
    assert store.all(NodeIdsQuery, limit=limit, **query) == expected
    wanted = ("n5", "n4", "nobody", "n0")
    found = store.all(NodesQuery, limit=limit, node_ids=wanted, **query)
    assert [item.node.node_id for item in found] == [node_id for node_id in expected if node_id in wanted]
    store.ok(RemoveNode(3, "n4"))
    store.ok(RegisterNode(4, Registration("n0", groups=("odd",)), "192.0.2.1", 5683))
    assert store.all(NodeIdsQuery, group="even") == ["n2"]


def test_a_node_shows_its_last_sample_flushed_or_not(disk):
    store = disk.open()
    store.register("n1", "n2")
    store.ledger.record([Sample("n1", 5, b"{}"), Sample("n2", 5, b"{}")])
    store.ledger.record([Sample("n1", 6, b'{"cpu_percent":1}')])

    assert store.one(NodeQuery("n1")).sample == Sample("n1", 6, b'{"cpu_percent":1}')
    assert [item.sample.at for item in store.all(NodesQuery)] == [6, 5]
    store = disk.open()
    assert [item.sample.at for item in store.all(NodesQuery)] == [6, 5]
    # A later registration keeps it.
    store.register("n1")
    assert store.one(NodeQuery("n1")).sample.at == 6


def test_a_block_of_samples_is_written_but_for_what_is_known_later(disk):
    store = disk.open()
    node_ids = [f"n{number}" for number in range(9)]
    store.register(*node_ids)
    rows = [number for number in range(9) if number != 4]
    block = SampleBlock(node_ids, rows, range(100, 109), [b'{"node_id":"%d"}' % number for number in range(9)])
    store.ledger.record([Sample("n1", 7, b"{}"), Sample("n4", 7, b"{}")])
    store.ledger.record_all(block)
    store.ledger.record([Sample("n3", 200, b"{}")])
    store = disk.open()

    samples = [item.sample for item in store.all(NodesQuery)]
    assert [sample.at for sample in samples] == [100, 101, 102, 200, 7, 105, 106, 107, 108]
    assert unpack(samples[8].body) == b'{"node_id":"8"}'


def test_a_sample_of_a_node_that_is_gone_or_was_never_there_is_dropped(disk):
    store = disk.open()
    store.register("n1")
    store.ledger.record([Sample("n1", 5, b"{}")])
    store.ledger.record([Sample("n2", 5, b"{}")])
    store.ok(RemoveNode(6, "n1"))
    store = disk.open()
    store.register("n1", "n2")

    assert [item.sample for item in store.all(NodesQuery)] == [None, None]


def test_an_artifact_is_found_by_name_and_by_content(filled):
    artifact = an_artifact("a4.whl", "4")

    assert filled.one(ArtifactQuery(name="a4.whl")) == artifact
    assert filled.one(ArtifactQuery(sha256="4" * 64)) == artifact
    assert filled.one(ArtifactQuery(name="nothing")) is None
    assert filled.one(ArtifactQuery(sha256="0" * 64)) is None


def test_an_upload_is_new_once_and_its_conditions_are_kept(store):
    old, new = an_artifact(content="a"), an_artifact(content="b")

    assert store.apply(putting(old, replaces="b" * 64)).status == "precondition"
    assert store.ok(putting(old, only_new=True)).created
    assert store.apply(putting(new, only_new=True)).status == "precondition"
    assert store.apply(putting(new, replaces="c" * 64)).status == "precondition"
    assert store.one(ArtifactQuery(name=old.name)) == old
    assert not store.ok(putting(new, replaces=old.sha256)).created
    assert store.apply(DeleteArtifact(6, new.name, replaces=old.sha256)).status == "precondition"
    store.ok(DeleteArtifact(6, new.name, replaces=new.sha256))
    assert store.apply(DeleteArtifact(7, new.name)).status == "not_found"


def test_a_job_keeps_the_content_it_was_created_with_and_lets_it_go_at_its_end(store):
    old, new = an_artifact(content="a"), an_artifact(content="b")
    store.register("n1")
    store.ok(putting(old))
    store.ok(creating("j1", artifacts=(old,)))
    store.ok(creating("j2", artifacts=(old,)))
    store.take_changes()

    refused = store.apply(DeleteArtifact(20, old.name))
    assert refused.status == "illegal"
    assert "j1, j2" in refused.detail
    assert store.ask(ArtifactUseQuery(old.name)).items == ("j1", "j2")
    store.ok(putting(new))
    assert store.take_changes() == [("artifact", "stored", old.name)]
    assert store.one(ArtifactQuery(sha256=old.sha256)).name == old.name
    assert store.all(ContentsQuery) == [old.sha256, new.sha256]
    store.ok(InstallJob(21, "j1"))
    store.advance(21)
    store.ok(reporting(1, "failed"))
    assert "released" not in [change.state for change in store.changes]  # j2 has yet to be done
    store.ok(CancelJob(22, "j2"))

    assert [change.sha256 for change in store.changes if change.state == "released"] == [old.sha256]
    assert store.all(ContentsQuery) == [new.sha256]
    assert store.one(ArtifactQuery(sha256=old.sha256)) is None


def test_a_deleted_artifact_is_released_unless_another_name_has_its_content(store):
    store.ok(putting(an_artifact("a.whl")))
    store.ok(putting(an_artifact("b.whl")))
    store.take_changes()

    store.ok(DeleteArtifact(6, "a.whl"))
    assert store.take_changes() == [("artifact", "deleted", "a.whl")]
    store.ok(DeleteArtifact(6, "b.whl"))
    assert store.take_changes() == [("artifact", "deleted", "b.whl"), ("artifact", "released", None)]


def test_a_job_created_over_an_artifact_that_has_changed_is_refused(store):
    store.ok(putting(an_artifact(content="b")))

    outcome = store.apply(creating(artifacts=(an_artifact(content="a"),)))

    assert (outcome.status, outcome.field) == ("invalid", "$.artifacts[0]")
    assert store.state("j1") is None


def test_deleting_a_job_that_never_began_lets_its_content_go(store):
    artifact = an_artifact()
    store.ok(putting(artifact))
    store.ok(creating(artifacts=(artifact,)))

    store.ok(DeleteJob(20, "j1"))

    store.ok(DeleteArtifact(21, artifact.name))
    assert store.changes[-1].state == "released"
