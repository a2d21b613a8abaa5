"""Files outside the store: opened by whoever may, used by the process that works in the store.

A command that root runs works in the store as the store's owner, in a child; what it needs outside, the parent opens
and hands over as a descriptor (SCM_RIGHTS, unix(7)). So nothing in the store ever belongs to root, and the owner needs
no rights on disks and home directories.

files     what commands do with files, by a process's own rights
handed    the same, asked of the parent; and what the parent answers
owner     which process does what, and for whom it cannot be done
library   modules and data of the program itself, for a child that may not walk to them
"""

from mirror.outside.files import Direct, Outside
from mirror.outside.handed import Handed
from mirror.outside.library import require_readable
from mirror.outside.owner import called, command_line, may_begin, owner_of, run_as_owner

__all__ = [
    "Direct",
    "Handed",
    "Outside",
    "called",
    "command_line",
    "may_begin",
    "owner_of",
    "require_readable",
    "run_as_owner",
]
