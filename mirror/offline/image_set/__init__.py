"""What somebody wants mirrored: an ImageSetConfiguration, a list of pullspecs, or a mapping file."""

from mirror.offline.image_set.files import read
from mirror.offline.image_set.model import Channel, ImageSet, Platform, PlatformInvalid, WantedImage
from mirror.offline.image_set.suggestions import suggest_upstreams

__all__ = ["Channel", "ImageSet", "Platform", "PlatformInvalid", "WantedImage", "read", "suggest_upstreams"]
