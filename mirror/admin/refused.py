"""Which of the files that a configuration names cannot be used, while a service lives on what it read before."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Sequence

from mirror.admin.check.certificates import find_in_certificates
from mirror.admin.check.clients import find_in_clients
from mirror.admin.check.files import find_in_files
from mirror.admin.check.logins import read_pull_secrets
from mirror.admin.check.report import Finding
from mirror.admin.check.surroundings import Surroundings
from mirror.config import Config

_REMEMBERED = 5.0  # seconds; whoever writes one of the files is done by then
# What the service cannot read or understand. That a file stands open, or a certificate ends, is for others to say.
_REFUSED = frozenset(
    {"file_missing", "file_unreadable", "file_empty", "file_too_large", "certificate_invalid"}
    | {"key_encrypted", "key_invalid", "key_mismatch", "pull_secret_invalid", "pull_secret_entry", "htpasswd"}
)


class RefusedFiles:
    """What `mirror check` says of the files of `config`, as far as the next start would not have them."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._looked_at = 0.0
        self._found: Sequence[Finding] = ()

    def find(self) -> Sequence[Finding]:
        """Return the errors; each names its file. Remembered for some seconds, and it blocks."""
        if not self._looked_at or time.monotonic() - self._looked_at >= _REMEMBERED:
            self._found = tuple(self._look())
            self._looked_at = time.monotonic()
        return self._found

    def _look(self) -> Iterator[Finding]:
        config = self._config
        # The environment says what else may be open to others, which is not asked here.
        around = Surroundings.look({}, config.storage.path)
        findings = [
            *find_in_files(config, around),
            *find_in_certificates(config, datetime.datetime.now(datetime.UTC)),
            *read_pull_secrets(config)[1],
            *find_in_clients(config),
        ]
        for one in findings:
            if one.severity != "error" or one.code not in _REFUSED:
                continue
            if one.code == "htpasswd":  # which says only of its place what file it is
                where = config.source.where("clients", "htpasswd")
                yield Finding(one.severity, one.code, f"{one.where}: {one.what}", where, one.remedy)
            else:
                yield one
