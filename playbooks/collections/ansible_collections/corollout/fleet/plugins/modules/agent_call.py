#!/usr/bin/python
# Copyright: Corollout contributors
# Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: agent_call
short_description: Make one call of a rollout on each host of a slice
version_added: 0.1.0
description:
  - What C(corollout rollout --via ansible) runs on slices of hosts. It is of no use by itself.
  - Each host gets its own command and input from a file that the controller wrote, and its answer is left beside it.
  - Works through the connection's shell alone, so the host needs no Python for it.
author:
  - Corollout contributors (@corollout)
options:
  calls:
    description: File on the controller with the call of each host, as JSON.
    type: path
    required: true
attributes:
  check_mode:
    support: none
    description: Runs nothing in check mode.
  diff_mode:
    support: none
    description: Has nothing to compare.
  action:
    support: full
    description: Has an action plugin that does all the work on the controller.
  platform:
    support: full
    platforms: posix
    description: Hosts with a POSIX shell.
seealso:
  - module: corollout.fleet.bpf_program
"""

EXAMPLES = r"""
- name: Call the agent of each host of a slice
  corollout.fleet.agent_call:
    calls: /var/lib/corollout-home/ansible/4711-x/calls.json
"""

RETURN = r"""
status:
  description: Exit status of the command, V(-1) when it wrote more than it may.
  type: int
  returned: when the command ended
  sample: 0
truncated:
  description: Whether it wrote more than it may.
  type: bool
  returned: when the command ended
files:
  description: Path of the call's files; C(.out) and C(.err) hold what the command wrote.
  type: str
  returned: when the command ended
timed_out:
  description: Whether the command was given up.
  type: bool
  returned: when it did not end in time
"""
