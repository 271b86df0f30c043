"""Without the shared traces there is nothing to ask these files; test_presence.py says so."""

import oracle

collect_ignore = [] if oracle.traces() else ["test_traces.py"]
