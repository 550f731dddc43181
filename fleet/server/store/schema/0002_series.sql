-- What nodes measured, an hour of a node a row, in rings: `place` is the hour, counted since 1970, modulo as many as are
-- kept. Written once an hour in key order. Bodies as fleet.server.series packs them.

CREATE TABLE five_minute_series (
    place INTEGER NOT NULL,
    node_id TEXT NOT NULL,
    hour INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (place, node_id)
) WITHOUT ROWID;

CREATE TABLE hourly_series (
    place INTEGER NOT NULL,
    node_id TEXT NOT NULL,
    hour INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (place, node_id)
) WITHOUT ROWID;
