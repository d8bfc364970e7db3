"""What ``python -m evidence`` runs: the command line, which is in ``command``.

Little is imported before: Ctrl-C while the rest is being imported ends like a later one, with the
command that goes on.
"""

import shlex
import sys

from . import invocation

if __name__ == "__main__":
    try:
        from .command import main

        sys.exit(main())
    except KeyboardInterrupt:
        words = [*invocation(), *sys.argv[1:]]
        print(f"\nInterrupted. To go on:\n{shlex.join(words)}")
        sys.exit(130)
