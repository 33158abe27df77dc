# Copyright: Corollout contributors
# Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0
"""Options that the modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """Home and host; then what is said of the program."""

    DOCUMENTATION = r"""
requirements:
  - The Python package C(corollout), beside ansible-core on the controller
  - Python 3.6 or newer on the host for the agent, or none, for what the runner alone can hold
options:
  home:
    description:
      - Folder of the controller's record. Made when it is not there.
      - Without it E(COROLLOUT_HOME), else the place where the C(corollout) command has it. The record is then on the
        server that E(COROLLOUT_DATABASE) names, if it names one.
    type: path
  host:
    description: Name of the host in the record. Without it, its name in the inventory.
    type: str
attributes:
  action:
    support: full
    description: Has an action plugin that does all the work on the controller.
  platform:
    support: full
    platforms: linux
    description: Hosts with a POSIX shell.
notes:
  - No module code runs on the host, so the Python that Ansible wants there does not matter. The connection's shell runs
    Corollout's agent, which needs Python 3.6.
"""

    PROGRAM = r"""
options:
  program:
    description: Name of a program of the catalogue.
    type: str
    required: true
  programs:
    description: Folders with programs of your own.
    type: list
    elements: path
    default: []
"""
