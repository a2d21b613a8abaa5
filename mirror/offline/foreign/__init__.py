"""Images in formats of other tools: OCI layouts, what docker, skopeo and oc-mirror write, a registry's storage.

recognise   which format something is in
survey      what would come out of it, under which names, and what is missing: the parts of a plan
bring       the bytes into the store, each content verified
"""

from mirror.offline.foreign.bring import Brought, bring
from mirror.offline.foreign.mistaken import TAKES
from mirror.offline.foreign.model import Foreign, ForeignImage, FormatKind, ImageNotFound
from mirror.offline.foreign.recognise import kind_of, recognise
from mirror.offline.foreign.survey import Survey, survey

__all__ = [
    "TAKES",
    "Brought",
    "Foreign",
    "ForeignImage",
    "FormatKind",
    "ImageNotFound",
    "Survey",
    "bring",
    "kind_of",
    "recognise",
    "survey",
]
