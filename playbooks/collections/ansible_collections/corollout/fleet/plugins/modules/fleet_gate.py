#!/usr/bin/python
# Copyright: Corollout contributors
# Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_gate
short_description: Wait until a wave of a rollout has passed its gate
version_added: 0.1.0
description:
  - Reads the record on the controller until the wave, or the whole rollout, is over. It fails when that did not pass.
  - Runs once, on the controller, and touches no host. Something else drives the rollout.
author:
  - Corollout contributors (@corollout)
requirements:
  - The Python package C(corollout), beside ansible-core on the controller
options:
  rollout:
    description: Id of the rollout.
    type: str
    required: true
  wave:
    description: Number of the wave. Without it, all of them.
    type: int
  home:
    description: Folder of the controller's record. Without it E(COROLLOUT_HOME), else where C(corollout) has it.
    type: path
  timeout:
    description: Seconds to wait.
    type: int
    default: 3600
  poll:
    description: Seconds between two looks.
    type: float
    default: 5.0
attributes:
  check_mode:
    support: full
    description: Looks once and does not wait.
  diff_mode:
    support: none
    description: Has nothing to compare.
  action:
    support: full
    description: Has an action plugin that does all the work on the controller.
  platform:
    support: full
    platforms: posix
    description: The controller.
seealso:
  - module: corollout.fleet.bpf_program
"""

EXAMPLES = r"""
- name: Go on when the canaries have passed
  corollout.fleet.fleet_gate:
    rollout: tcp-flow-3
    wave: 0
  run_once: true
"""

RETURN = r"""
over:
  description: Whether there is nothing left to wait for.
  returned: always
  type: bool
state:
  description: State of the rollout.
  returned: always
  type: str
  sample: COMPLETED
reason:
  description: Why it is there.
  returned: always
  type: str
waves:
  description: The waves that were waited for, each with C(number), C(state) and the verdict of its C(gate).
  returned: always
  type: list
  elements: dict
code:
  description: Stable code of what went wrong. C(corollout explain CODE) expands it.
  returned: on failure
  type: str
remedy:
  description: What to do about it.
  returned: on failure
  type: str
"""
