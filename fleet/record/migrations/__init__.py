"""The record's schema, one numbered step after another; applied by ``fleet.record.database`` alone."""
