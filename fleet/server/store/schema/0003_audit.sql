-- Who did what, newest last; a number is never used twice. `pool` is what a row is bounded with: how many of each are
-- kept, and how many are no more.

CREATE TABLE audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    pool TEXT NOT NULL,
    who TEXT NOT NULL,
    host TEXT NOT NULL,
    port INTEGER NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    what TEXT NOT NULL,
    subject TEXT NOT NULL,
    result TEXT NOT NULL,
    count INTEGER NOT NULL
);

CREATE INDEX audit_by_pool ON audit (pool, number);

CREATE TABLE audit_pools (
    pool TEXT PRIMARY KEY,
    kept INTEGER NOT NULL,
    dropped INTEGER NOT NULL
) WITHOUT ROWID;
