-- Nodes, jobs and their executions, artifacts, and what makes commands repeatable and changes observable.
-- Ids are text, times UTC milliseconds, sizes bytes. A due_at is a timer: what is due is found by index.

CREATE TABLE nodes (
    node_id TEXT PRIMARY KEY,
    registration BLOB NOT NULL,             -- JSON
    host TEXT NOT NULL,
    port INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    registered_at INTEGER NOT NULL
) WITHOUT ROWID;

-- The last health of each node; written in intervals, sorted by key, so that few pages are touched.
CREATE TABLE samples (
    node_id TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    body BLOB NOT NULL                      -- JSON
) WITHOUT ROWID;

CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY,
    spec BLOB NOT NULL,                     -- JSON
    artifacts BLOB NOT NULL,                -- JSON
    state TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    work TEXT NOT NULL,
    work_after TEXT NOT NULL,
    expanded INTEGER NOT NULL,
    due_at INTEGER
);
CREATE INDEX jobs_by_age ON jobs (created_at, job_id);
CREATE INDEX jobs_due ON jobs (due_at, job_id) WHERE due_at IS NOT NULL;

CREATE TABLE executions (
    job_id TEXT NOT NULL,
    node_id TEXT NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    due_at INTEGER,                         -- set while not at an end
    bytes_done INTEGER NOT NULL,
    bytes_total INTEGER,
    reason TEXT,
    waiting_for TEXT,
    output TEXT,
    PRIMARY KEY (job_id, node_id)
) WITHOUT ROWID;
CREATE INDEX executions_due ON executions (due_at, job_id, node_id) WHERE due_at IS NOT NULL;
CREATE INDEX executions_open ON executions (node_id, job_id) WHERE due_at IS NOT NULL;

CREATE TABLE counts (
    job_id TEXT NOT NULL,
    state TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (job_id, state)
) WITHOUT ROWID;

CREATE TABLE artifacts (
    name TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX artifacts_by_content ON artifacts (sha256);

-- Contents that a job needs, whatever their names stand for by now.
CREATE TABLE holds (
    sha256 TEXT NOT NULL,
    job_id TEXT NOT NULL,
    name TEXT NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (sha256, job_id, name)
) WITHOUT ROWID;
CREATE INDEX holds_by_job ON holds (job_id);

-- Outcomes by the client's request id; the numbers serve to forget the oldest.
CREATE TABLE answers (
    number INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    at INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    outcome BLOB NOT NULL                   -- JSON
);

CREATE TABLE changes (
    cursor INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    job_id TEXT,
    node_id TEXT,
    name TEXT,
    sha256 TEXT
);
