"""Hours of series to be recorded, and what a store then says of a node."""

from fleet.model.health import HealthReport
from fleet.server.queries import SeriesQuery
from fleet.server.series import FIVE_MINUTES, HOUR_MS, Series, points

H = 497_222
MINUTE = 60_000


def hour_of(number, *reports):
    """A block of that hour; a report is (node id, minute, cpu)."""
    blocks = []
    series = Series(blocks.append)
    rows = {node_id: series.add(node_id) for node_id in dict.fromkeys(node_id for node_id, _minute, _cpu in reports)}
    for node_id, minute, cpu in reports:
        series.record(rows[node_id], number * HOUR_MS + minute * MINUTE, HealthReport(node_id, cpu_percent=cpu))
    series.close()
    return blocks[0]


def means(store, node_id="n1", resolution=FIVE_MINUTES, first=H - 2000, last=H + 2000):
    page = store.ask(SeriesQuery(node_id, resolution, first, last))
    assert page.status == "ok"
    return [
        (point.at - H * 3600, point.mean, *(() if point.least is None else (point.least, point.greatest)))
        for row in page.items
        for point in points(resolution, row.hour, row.body)
    ]
