"""What a gate's verdict rests on: the rounds of asking a service, and samples by their ids."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import func, insert, select

from fleet.record.access import Access
from fleet.record.rollout_queries import sample_view
from fleet.record.rollout_tables import SampleRow, ServiceSampleRow
from fleet.record.rollout_views import SampleView, ServiceView

_CHUNK = 500


class Evidence(Access):
    """Reads and writes of a verdict's evidence."""

    def record_service_samples(self, samples: Iterable[ServiceView]) -> None:
        """Keep one round, in one transaction."""
        rows: list[dict[str, Any]] = []
        for sample in samples:
            row = asdict(sample)
            del row["id"]
            rows.append(row | {"document": json.dumps(row["document"])[:65536]})
        if rows:
            with self.writing() as session:
                session.execute(insert(ServiceSampleRow), rows)

    def service_samples(
        self, rollout_id: str, wave: int, *, moment: str | None = None, since: float | None = None
    ) -> list[ServiceView]:
        """Return the rounds of a wave in order; those of one *moment*, or asked at *since* or later."""
        statement = select(ServiceSampleRow).where(
            ServiceSampleRow.rollout_id == rollout_id, ServiceSampleRow.wave == wave
        )
        if moment is not None:
            statement = statement.where(ServiceSampleRow.moment == moment)
        if since is not None:
            statement = statement.where(ServiceSampleRow.at >= since)
        with self.reading() as session:
            return [_service(row) for row in session.execute(statement.order_by(ServiceSampleRow.id)).scalars()]

    def service_rounds(
        self, rollout_id: str, wave: int, moment: str, hosts: Iterable[str], *, since: float = 0.0
    ) -> int:
        """Return in how many rounds of *moment* any of *hosts* was asked at *since* or later."""
        statement = select(func.count(func.distinct(ServiceSampleRow.round))).where(
            ServiceSampleRow.rollout_id == rollout_id,
            ServiceSampleRow.wave == wave,
            ServiceSampleRow.moment == moment,
            ServiceSampleRow.host.in_(tuple(hosts)),
            ServiceSampleRow.at >= since,
        )
        with self.reading() as session:
            return session.execute(statement).scalar_one()

    def samples_named(self, ids: Sequence[int]) -> list[SampleView]:
        """Return the cost samples with these ids, by host and time; one that is gone is left out."""
        with self.reading() as session:
            found = [
                sample_view(row)
                for at in range(0, len(ids), _CHUNK)
                for row in session.execute(select(SampleRow).where(SampleRow.id.in_(ids[at : at + _CHUNK]))).scalars()
            ]
        return sorted(found, key=lambda s: (s.host, s.at, s.id))


def _service(row: ServiceSampleRow) -> ServiceView:
    try:
        document = json.loads(row.document)
    except ValueError:  # cut at the size limit
        document = {}
    return ServiceView(
        rollout_id=row.rollout_id, wave=row.wave, host=row.host, role=row.role, moment=row.moment, round=row.round,
        at=row.at, outcome=row.outcome, asked=row.asked, errors=row.errors, median_us=row.median_us,
        tail_us=row.tail_us, document=document if isinstance(document, dict) else {}, id=row.id,
    )  # fmt: skip
