"""What only series in a file have to prove: they outlast a full disk, leave nothing over, and come to old databases."""

import sqlite3
from pathlib import Path

import fleet.server.store
from fleet.server.queries import SeriesQuery
from fleet.server.series import FIVE_MINUTES, HOUR, KEPT_HOURS
from fleet.server.store import sqlite_series
from fleet.server.store.interface import BLOCKS_LIMIT
from fleet.server.store.sqlite import SqliteLedger
from tests.store.series import H, hour_of, means
from tests.store.stores import Driver, SqliteDisk, registering

TABLES = ("five_minute_series", "hourly_series")


def rows(path, table):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(f"SELECT hour, node_id FROM {table} ORDER BY hour, node_id").fetchall()
    finally:
        connection.close()


def settle(store):
    """Two commands' commits: what was put before the first is done by the second's."""
    for _ in range(2):
        store.ok(registering("settled"))


def test_an_hour_is_one_sorted_transaction(tmp_path, monkeypatch):
    seen = []
    put = sqlite_series.put_series

    def watched(connection, block):
        connection.set_trace_callback(seen.append)
        put(connection, block)
        connection.set_trace_callback(None)

    monkeypatch.setattr("fleet.server.store.sqlite.put_series", watched)
    store = SqliteDisk(str(tmp_path / "fleet.db"))
    driver = store.open()
    driver.ledger.record_series(hour_of(H, ("n3", 0, 10), ("n1", 0, 10), ("n2", 0, 10)))
    store.close()

    assert [row[1] for row in rows(store.path, TABLES[0])] == ["n1", "n2", "n3"]
    inserts = [statement for statement in seen if statement.startswith("INSERT")]
    assert [statement for statement in inserts if "'n" in statement] == inserts
    order = [statement.split("'")[1] for statement in inserts]
    assert order == ["n1", "n2", "n3"] * 2
    assert not any("COMMIT" in statement for statement in seen)


def test_what_nodes_left_that_do_not_report_any_more_is_removed_behind_a_new_hour(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sqlite_series,
        "_REMOVE",
        {resolution: text.replace("5000", "2") for resolution, text in sqlite_series._REMOVE.items()},
    )
    monkeypatch.setattr(sqlite_series, "CHUNK", 2)
    disk = SqliteDisk(str(tmp_path / "fleet.db"))
    for resolution, table in zip((FIVE_MINUTES, HOUR), TABLES):
        disk.open().ledger.record_series(hour_of(H, *((f"n{index}", 0, 1) for index in range(7))))
        store = disk.open()
        assert len(rows(disk.path, table)) >= 7
        store.ledger.record_series(hour_of(H + KEPT_HOURS[resolution], ("n3", 0, 1)))
        while [row for row in rows(disk.path, table) if row[0] == H]:
            settle(store)

        assert (H + KEPT_HOURS[resolution], "n3") in rows(disk.path, table)
    disk.close()


def test_hours_that_cannot_be_written_wait_in_memory_but_not_without_bound(tmp_path, monkeypatch):
    disk = SqliteDisk(str(tmp_path / "fleet.db"))
    store = disk.open()
    store.register("n1")
    put, failing = sqlite_series.put_series, True

    def full(connection, block):
        put(connection, block)
        if failing:
            raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("fleet.server.store.sqlite.put_series", full)
    for number in range(BLOCKS_LIMIT + 1):
        store.ledger.record_series(hour_of(H + number, ("n1", 0, number)))
        settle(store)
    assert rows(disk.path, TABLES[0]) == []
    assert [mean[1] for mean in means(store)] == [1, 2]

    failing = False
    store.ledger.record([])
    settle(store)

    assert [row[0] for row in rows(disk.path, TABLES[0])] == [H + 1, H + 2]
    assert [mean[1] for mean in means(store, first=H, last=H + 9)] == [1, 2]
    disk.close()


def test_a_database_from_before_there_were_series_gets_them(tmp_path):
    path = str(tmp_path / "fleet.db")
    schema = Path(fleet.server.store.__file__).parent / "schema"
    connection = sqlite3.connect(path)
    connection.executescript((schema / "0001_founding.sql").read_text("utf-8") + "PRAGMA user_version = 1;")
    connection.close()

    store = Driver(lambda post: SqliteLedger(path, post))
    store.register("n1")
    store.ledger.record_series(hour_of(H, ("n1", 0, 10)))

    assert means(store, last=H + 1) == [(0, 10.0)]
    store.ledger.close()


def test_a_node_is_read_by_its_keys_whatever_others_there_are(tmp_path):
    disk = SqliteDisk(str(tmp_path / "fleet.db"))
    disk.open()
    connection = sqlite3.connect(disk.path)

    for resolution, table in zip((FIVE_MINUTES, HOUR), TABLES):
        plan = connection.execute("EXPLAIN QUERY PLAN " + sqlite_series._BODIES[resolution], (H, H + 9, "n1"))
        steps = " / ".join(row[3] for row in plan)
        assert f"SEARCH {table} USING PRIMARY KEY (place=? AND node_id=?)" in steps.replace("TABLE ", "")
    connection.close()
    assert disk.driver is not None
    assert disk.driver.ask(SeriesQuery("n1", HOUR, 0, 1 << 40)).items == ()
    disk.close()
