"""A pull-through caching mirror registry for OpenShift and Kubernetes."""

__version__ = "0.1.0"
