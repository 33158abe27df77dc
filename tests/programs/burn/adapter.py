"""Fits the scope to burn's ``config`` map; its records need no change but their names."""

import struct


def core_arguments(_config, scope):
    """Return the runner's arguments for a resolved scope."""
    return {"set": ["config:00000000=" + struct.pack("=QII", scope["cgroup"], scope["netns"], 0).hex()]}


def normalise(raw, clock):
    """Return the consumer record of a raw one."""
    mono_ns = raw["mono_ns"]
    return {"mono_ns": mono_ns, "ts_ns": mono_ns + clock["offset_ns"], "pid": raw["pid"]}
