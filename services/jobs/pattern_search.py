"""Where regular expressions of a test set match. A program of its own, for a pattern may take for ever.

Reads {"text": text, "patterns": [pattern, ...]} from stdin, writes a JSON list of booleans. Needs nothing of the host.
"""

from __future__ import annotations

import json
import re
import sys


def main() -> None:
    """Search, whatever the case; `.` matches line ends, too."""
    asked = json.load(sys.stdin)
    flags = re.IGNORECASE | re.DOTALL
    json.dump([re.search(pattern, asked["text"], flags) is not None for pattern in asked["patterns"]], sys.stdout)


if __name__ == "__main__":
    main()
