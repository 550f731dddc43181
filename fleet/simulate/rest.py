"""What must hold in the end, when the faults have ceased and time was granted: everything at its end, and forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from fleet.model import executions
from fleet.model.executions import Execution
from fleet.simulate.invariants import Invariants, require
from fleet.simulate.node import SimulatedNode
from fleet.simulate.server import DATA_DIR, HEALTH_INTERVAL, SimulatedServer
from minicoap.simulate.world import World

LOOK = 60.0  # seconds between looks at memory
FORGETTING = 600.0  # seconds after which an endpoint without traffic has forgotten everything: 2 EXCHANGE_LIFETIMEs


def check_rest(server: SimulatedServer, nodes: Sequence[SimulatedNode], invariants: Invariants) -> None:
    """Executions are at their ends, devices are what these say, and nothing is left behind."""
    tables = server.store.tables
    for job_id, rows in tables.executions.items():
        for row in rows.values():
            require(row.state in executions.ENDS, "job {} on {} is still {}", job_id, row.node_id, row.state)
    for node in nodes:
        require(node.node_id in tables.nodes, "{} is not registered", node.node_id)
        require(not node.leftovers, "{} left {}", node.node_id, node.leftovers)
        for job_id in tables.jobs:
            execution = tables.executions[job_id].get(node.node_id)
            if execution is not None:
                _check_device(node, execution, invariants)
    _check_server(server)


def check_idle_memory(world: World, server: SimulatedServer, nodes: Sequence[SimulatedNode]) -> None:
    """Between two reports an agent keeps nothing of what was; nor does the server once nobody speaks to it."""
    busy = {node.index: node for node in nodes}
    until = world.now + HEALTH_INTERVAL + FORGETTING
    while busy and world.now < until:
        world.run_for(LOOK)
        for node in list(busy.values()):
            if node.agent is not None and not any(node.agent.endpoint.footprint().values()):
                del busy[node.index]
    for node in busy.values():
        require(False, "{} keeps {}", node.node_id, node.agent and node.agent.endpoint.footprint())
    for node in nodes:
        node.switch_off()
    world.run_for(FORGETTING)
    assert server.server is not None
    footprint = server.server.endpoint.footprint()
    require(not any(footprint.values()), "the server keeps {}", footprint)


def _check_device(node: SimulatedNode, row: Execution, invariants: Invariants) -> None:
    """The device is what the end says: new after a success, old after any other, but where the way back was lost."""
    where = (node.node_id, row.job_id, row.attempt)
    if row.state in executions.SUCCESSES:
        require(node.device.has_new(row.job_id), "{} ended {}, the device is not new", where, row.state)
    elif row.state != executions.ROLLBACK_FAILED:
        require(node.device.has_old(row.job_id), "{} ended {}, the device is not as before", where, row.state)
    if row.state == executions.SUCCEEDED:
        done = sum(invariants.installs[node.node_id, row.job_id, number] for number in range(1, row.attempt + 1))
        require(done >= 1, "{} succeeded without an install", where)


def _check_server(server: SimulatedServer) -> None:
    """What the server keeps in memory is what the store says, and so are the contents on its disk."""
    running = server.server
    assert running is not None
    tables = server.store.tables
    services = running.services
    require(len(services.waiting) == 0, "{} executions wait in memory, none in the store", len(services.waiting))
    for node_id in tables.nodes:
        require(services.presences.find(node_id) is not None, "{} is registered and not known", node_id)
    contents = server.disk.names(f"{DATA_DIR}/artifacts/contents")
    needed = sorted({artifact.sha256 for artifact in tables.artifacts.values()})
    require(contents == needed, "the disk holds {}, needed are {}", contents, needed)
    size = sum(server.disk.size(f"{DATA_DIR}/artifacts/contents/{name}") or 0 for name in contents)
    require(services.artifacts.used == size, "the store counts {} bytes, not {}", services.artifacts.used, size)
    require(not server.disk.names(f"{DATA_DIR}/artifacts/incoming"), "uploads left behind")
