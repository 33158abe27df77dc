"""The agent's modules, compiled once for this host's Python: compiling them is half of what a verb costs.

They lie in a file beside the zipapp, which a start looks at first. Without it everything works, from the sources.
"""

import os
import sys

from probes.agent.faults import StateUnwritable
from probes.agent.process import zipapp
from probes.agent.state import write_bytes

# What a zipapp begins with, before it imports anything of its own.
START = """\
import os, sys
compiled = "%s.%s" % (sys.path[0], sys.implementation.cache_tag)
if os.path.exists(compiled):
    sys.path.insert(0, compiled)
"""


def keep() -> None:
    """Write the file where it is missing; what this does not manage costs time and nothing else."""
    archive = zipapp()
    path = "%s.%s" % (archive, sys.implementation.cache_tag)
    if not archive or os.path.exists(path):
        return
    import importlib.util  # what only this needs: every start would pay for it
    import io
    import marshal
    import zipfile

    # Neither a time nor a size to compare with: the file is named after the one it was made from.
    header = importlib.util.MAGIC_NUMBER + bytes(12 if sys.version_info >= (3, 7) else 8)
    data = io.BytesIO()
    try:
        with zipfile.ZipFile(archive) as sources, zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as made:
            for name in sources.namelist():
                if name.endswith(".py") and name != "__main__.py":
                    code = compile(sources.read(name), os.path.join(archive, name), "exec", dont_inherit=True)
                    made.writestr(name + "c", header + marshal.dumps(code))
        write_bytes(path, data.getvalue())
    except (OSError, zipfile.BadZipFile, StateUnwritable):
        pass
