#!/usr/bin/python
# Copyright: Corollout contributors
# Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: bpf_check
short_description: Ask whether a program would run on a host
version_added: 0.1.0
description:
  - Learns the host, decides which variant of the program it would get, and says why and what would unlock more.
  - The decision is the one that C(corollout plan) takes, and the record keeps it.
author:
  - Corollout contributors (@corollout)
extends_documentation_fragment:
  - corollout.fleet.host
  - corollout.fleet.host.program
options:
  load:
    description:
      - Whether the host's kernel is asked to load the build, without attaching it. The files for it stay on the host.
      - Not done in check mode.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Changes nothing on a host in any mode.
  diff_mode:
    support: none
    description: Has nothing to compare.
seealso:
  - module: corollout.fleet.bpf_program
"""

EXAMPLES = r"""
- name: Ask before anything is changed
  corollout.fleet.bpf_check:
    program: tcp-flow
  register: answer

- name: Name the cheapest change that would help
  ansible.builtin.debug:
    msg: "{{ answer.unlocks | map(attribute='action') | join('; ') }}"
  when: not answer.fits
"""

RETURN = r"""
fits:
  description: Whether any variant runs here.
  returned: success
  type: bool
verdict:
  description: The verdict on the chosen variant, or on the host when none runs.
  returned: success
  type: str
  sample: degraded
variant:
  description: The chosen variant.
  returned: success
  type: str
  sample: fallback
summary:
  description: The reason in a line.
  returned: success
  type: str
kernel:
  description: Id of the kernel build.
  returned: success
  type: str
assessments:
  description: Every variant with its verdict, evidence, unmet requirements and what it does not give.
  returned: success
  type: list
  elements: dict
unlocks:
  description: Changes that would let more run, each with C(code) and C(action).
  returned: success
  type: list
  elements: dict
loaded:
  description: What the kernel said to the build, as C(ok), C(code) and C(message).
  returned: with O(load=true), when a variant was chosen
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
