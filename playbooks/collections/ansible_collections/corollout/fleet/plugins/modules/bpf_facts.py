#!/usr/bin/python
# Copyright: Corollout contributors
# Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: bpf_facts
short_description: Ask a host what it can really do with BPF
version_added: 0.1.0
description:
  - Runs Corollout's collector on the host, which tries things instead of looking at version numbers, and returns what
    it found as facts. The host is not changed.
author:
  - Corollout contributors (@corollout)
extends_documentation_fragment:
  - corollout.fleet.host
options:
  names:
    description:
      - Only facts whose names begin so. Without it all but the longest (C(kconfig), C(hook.tracepoints),
        C(netfilter.rules)).
    type: list
    elements: str
    default: []
  record:
    description: Whether the controller's record keeps what was found, and its archive the kernel's BTF.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Changes no host in any mode. With O(record=true) the record is written in check mode, too.
  diff_mode:
    support: none
    description: Has nothing to compare.
  facts:
    support: full
    description: Returns facts for the host.
seealso:
  - module: corollout.fleet.bpf_check
"""

EXAMPLES = r"""
- name: Learn what each host can do
  corollout.fleet.bpf_facts:

- name: Say which hosts show their BTF
  ansible.builtin.debug:
    msg: "{{ ansible_facts.corollout.answers['btf.vmlinux'] }}"

- name: Keep it in the record, as a scan does
  corollout.fleet.bpf_facts:
    record: true
"""

RETURN = r"""
ansible_facts:
  description: What was found.
  returned: always
  type: dict
  contains:
    corollout:
      description: The facts. Texts come from the host and are untrusted.
      returned: always
      type: dict
      contains:
        kernel:
          description: Id of the kernel build.
          returned: always
          type: str
        digest:
          description: SHA-256 of all that was found, which tells whether anything changed.
          returned: always
          type: str
        answers:
          description: Fact by fact V(yes), V(no), V(blocked) or V(unknown).
          returned: always
          type: dict
        values:
          description: The values of those that have one.
          returned: always
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
