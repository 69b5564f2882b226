# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a fleet's plans look up once is what the records say, however those came about."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from machines.model.observed import Record
from machines.plan.owned import taken_on, with_record

BRIDGES = ("br0", "br1")


def record(name: str, addresses: dict[str, int]) -> Record:
    four = {bridge: f"10.0.0.{number}" for bridge, number in addresses.items()}
    return Record(name, four, addresses6={bridge: f"fd00::{number}" for bridge, number in addresses.items()})


RECORDS = st.builds(
    record, st.sampled_from("abcd"), st.dictionaries(st.sampled_from(BRIDGES), st.integers(2, 250), max_size=2)
)


@given(st.lists(RECORDS, max_size=8))
def test_addresses_are_those_of_the_records(changes: list[Record]) -> None:
    records: dict[str, Record] = {}
    for number, change in enumerate(changes):
        # No two machines have the same address here.
        own = record(change.name, dict.fromkeys(change.addresses, 2 + number))
        before, records = records, with_record(records, own)
        assert before.get(own.name) is not own
        for bridge in BRIDGES:
            having = [each for each in records.values() if bridge in each.addresses]
            assert taken_on(bridge, records) == (
                {each.addresses[bridge]: each.name for each in having},
                {each.addresses6[bridge]: each.name for each in having},
            )
