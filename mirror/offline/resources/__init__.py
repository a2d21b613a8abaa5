"""What clusters and nodes need so that images keep their names and come from here: values in, files out, no I/O.

site            the registries of ours that clients reach, and how they are trusted
entries         which names lead to which repositories here
documents       how YAML and TOML are written, always the same
registries_conf, hosts_toml, cluster, install, update, readme     the files, a module for each kind of reader
tree            all of them together
clients         how podman, the agent installer, OpenShift and containerd read these files
prove           does every planned image, resolved by each of them, land here
authority       does the CA verify what we serve
"""

from mirror.offline.resources.authority import check_authority, check_ca
from mirror.offline.resources.prove import prove
from mirror.offline.resources.site import Registry, Site
from mirror.offline.resources.tree import Resources, make

__all__ = ["Registry", "Resources", "Site", "check_authority", "check_ca", "make", "prove"]
