-- What nodes are found by: their groups, and a text of id and hostname in lower case, which an index holds close together.

CREATE TABLE node_groups (
    name TEXT NOT NULL,
    node_id TEXT NOT NULL,
    PRIMARY KEY (name, node_id)
) WITHOUT ROWID;
CREATE INDEX node_groups_by_node ON node_groups (node_id);

ALTER TABLE nodes ADD COLUMN search TEXT NOT NULL DEFAULT '';

INSERT OR IGNORE INTO node_groups (name, node_id)
    SELECT groups.value, nodes.node_id
    FROM nodes, json_each(CAST(nodes.registration AS TEXT), '$.groups') AS groups;
UPDATE nodes SET search = lower(
    node_id || char(10) || coalesce(json_extract(CAST(registration AS TEXT), '$.hostname'), '')
);
CREATE INDEX nodes_by_search ON nodes (search);
