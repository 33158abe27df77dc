#!/usr/bin/python
# Copyright: Corollout contributors
# Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: bpf_program
short_description: A BPF program present on a host, or absent from it
version_added: 0.1.0
description:
  - Brings the variant that suits the host, verified by its kernel before it is attached, and read back afterwards.
    What ran before goes on until the new one runs.
  - The same agent, specs and decisions as those of C(corollout rollout), without waves, gates and watching. Use this in
    plays of your own, and rollouts where a fleet is at stake.
  - Every order carries a fencing token, which the host refuses when it has seen a newer one. It comes from the
    controller's record, and is above the clock and above what the host has stored; see O(token).
author:
  - Corollout contributors (@corollout)
extends_documentation_fragment:
  - corollout.fleet.host
  - corollout.fleet.host.program
options:
  state:
    description: Whether the program is to run, or nothing of it is to be left.
    type: str
    choices: [present, absent]
    default: present
  on_unfit:
    description: What becomes of the task where no variant runs.
    type: str
    choices: [fail, skip]
    default: fail
  policies:
    description: Files with NetworkPolicy documents, for programs that enforce them.
    type: list
    elements: path
    default: []
  audit:
    description: Whether policies only count and report.
    type: bool
    default: false
  controllers:
    description: Networks that hosts are managed from. Their SSH stays open whatever policies say.
    type: list
    elements: str
    default: []
  scope:
    description: What of the host is looked at. Without it, the program's first.
    type: str
    choices: [host, netns, cgroup]
  budget:
    description: Other limits than the program's, such as C(cpu_percent) or C(memory_mib).
    type: dict
    default: {}
  token:
    description:
      - A fencing token of your own, above all that the host has seen. For controllers whose record is not reachable.
    type: int
attributes:
  check_mode:
    support: full
    description: Says what would change, and leaves nothing on the host, not even the agent. The record learns the host.
  diff_mode:
    support: full
    description: Shows state, variant, build and spec before and after.
seealso:
  - module: corollout.fleet.bpf_check
"""

EXAMPLES = r"""
- name: Trace TCP connections, by whatever this kernel allows
  corollout.fleet.bpf_program:
    program: tcp-flow

- name: Enforce policies, and leave hosts alone that cannot
  corollout.fleet.bpf_program:
    program: net-policy
    policies: [policy.yaml]
    controllers: [198.51.100.0/24]
    on_unfit: skip

- name: Leave nothing of it
  corollout.fleet.bpf_program:
    program: tcp-flow
    state: absent
"""

RETURN = r"""
before:
  description: What the host said it runs, as C(state), C(variant), C(build), C(generation) and C(spec).
  returned: success
  type: dict
after:
  description: What it was to run.
  returned: success
  type: dict
stood:
  description: Whether the host was as wanted before the task, by its own and its kernel's word.
  returned: success
  type: bool
token:
  description: Fencing token of the order that stands.
  returned: success
  type: int
decision:
  description: The decision for the host, as M(corollout.fleet.bpf_check) returns it, without assessments.
  returned: with O(state=present)
  type: dict
code:
  description: Stable code of what went wrong. C(corollout explain CODE) expands it.
  returned: on failure
  type: str
remedy:
  description: What to do about it.
  returned: on failure
  type: str
"""
