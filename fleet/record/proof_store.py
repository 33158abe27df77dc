"""What really came of builds on kernels, proven in the lab: kept for ever, newest last, and told to decisions."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import func, insert, select

from btf.fault import printable
from fleet.compatibility.decide import Learned
from fleet.compatibility.outcome import CONTRADICTIONS, Agreement, Proof, Real, boot_policy
from fleet.compatibility.verdict import Evidence, Verdict
from fleet.record.access import Access
from fleet.record.rollout_tables import StepRow
from fleet.record.store import SOMEBODY, add_audit
from fleet.record.tables import FactsRow, HostRow, ProofRow
from inventory.facts import parse_facts


class ProofStore(Access):
    """Proofs: one row for each time a build was tried; none is ever changed."""

    def record_proofs(self, proofs: Sequence[Proof], *, actor: str = SOMEBODY) -> int:
        """Keep what happened; what contradicts its prediction is an event of the audit too. Returns how many do."""
        at = self.now()
        told = [p for p in proofs if p.real is not Real.SILENT and p.kernel_id]
        rows = [
            {
                **{name: value for name, value in asdict(proof).items() if name != "document"},
                "at": at,
                "detail": printable(proof.detail, 1000),
                "document": json.dumps(proof.document, sort_keys=True),
            }
            for proof in told
        ]
        contradicting = [p for p in told if p.agreement in CONTRADICTIONS]
        with self.writing() as session:
            if rows:
                session.execute(insert(ProofRow), rows)
            for proof in contradicting:
                words = f"{proof.variant} on {proof.release}: predicted {proof.predicted}, {proof.real}: {proof.detail}"
                add_audit(session, at, actor, "contradiction", program=proof.program, detail=words)
        return len(contradicting)

    def proofs(self, *, kernel_id: str | None = None, build: str | None = None) -> list[Proof]:
        """Return the newest proof of each build, runner, kernel build and boot policy, oldest of them first."""
        newest = select(func.max(ProofRow.id)).group_by(
            ProofRow.build, ProofRow.runner, ProofRow.kernel_id, ProofRow.policy
        )
        statement = select(ProofRow).where(ProofRow.id.in_(newest)).order_by(ProofRow.id)
        if kernel_id is not None:
            statement = statement.where(ProofRow.kernel_id == kernel_id)
        if build is not None:
            statement = statement.where(ProofRow.build == build)
        with self.reading() as session:
            return [_proof(row) for row in session.execute(statement).scalars()]

    def observed(self) -> list[Learned]:
        """Return what runs on hosts of the fleet: of each build and kernel build, one host where it is healthy now.

        The boot policy is the host's, as its last scan showed it; a host that has another kernel by now is passed over.
        """
        first = (
            select(StepRow.build, StepRow.kernel_id, func.min(StepRow.host).label("host"))
            .join(HostRow, HostRow.name == StepRow.host)
            .where(
                StepRow.state == "healthy", HostRow.kernel_id == StepRow.kernel_id, HostRow.facts_digest.is_not(None)
            )
            .group_by(StepRow.build, StepRow.kernel_id)
            .subquery()
        )
        healthy = (
            select(first.c.build, first.c.kernel_id, first.c.host, HostRow.facts_digest)
            .join(HostRow, HostRow.name == first.c.host)
            .order_by(first.c.build, first.c.kernel_id)
        )
        found = []
        with self.reading() as session:
            for build, kernel_id, host, digest in session.execute(healthy).all():
                document = session.execute(select(FactsRow.document).where(FactsRow.digest == digest)).scalar_one()
                policy = boot_policy(parse_facts(zlib.decompress(document)))
                words = f"this build is healthy on {host}, of the same kernel build"
                found.append(Learned(build, kernel_id, Evidence.OBSERVED, words, policy=policy))
        return found

    def learned(self) -> list[Learned]:
        """Return what decisions may rest on, proven and observed: the strongest first, of equals the newest."""
        found = self.observed() + [
            Learned(
                proof.build,
                proof.kernel_id,
                proof.evidence,
                proof.detail,
                policy=proof.policy,
                refused=proof.real is Real.REFUSED,
            )
            for proof in reversed(self.proofs())
        ]
        return sorted(found, key=lambda learned: -learned.evidence.strength)


def _proof(row: ProofRow) -> Proof:
    return Proof(
        program=row.program,
        variant=row.variant,
        build=row.build,
        runner=row.runner,
        kernel_id=row.kernel_id,
        release=row.release,
        policy=row.policy,
        predicted=Verdict(row.predicted),
        real=Real(row.real),
        agreement=Agreement(row.agreement),
        evidence=Evidence(row.evidence),
        detail=row.detail,
        document=json.loads(row.document),
    )
