"""mirror.yaml as checked, frozen values. Before it: the error tree. After it: every room that is configured.

document        strict YAML: what the file says, and in which line
values, addresses, patterns     how durations, sizes, addresses, URLs and names are spelled
fields -> upstreams -> model    the keys, their types and defaults
contradictions  what each key says well and the keys together do not
load            a file -> Config, or all that is wrong with it
proxy           which forward proxy a request takes
"""

from mirror.config.addresses import DOCKER_HUB_SYNONYMS, is_loopback, is_loopback_host, is_wildcard, split_listen
from mirror.config.load import load
from mirror.config.model import Config, Limits, Log, Metrics, Storage, Tls
from mirror.config.patterns import Matcher, matches
from mirror.config.proxy import Proxy, effective_proxy
from mirror.config.upstreams import Credentials, Repositories, TagRules, UpstreamConfig
from mirror.config.values import Amount

__all__ = [
    "DOCKER_HUB_SYNONYMS",
    "Amount",
    "Config",
    "Credentials",
    "Limits",
    "Log",
    "Matcher",
    "Metrics",
    "Proxy",
    "Repositories",
    "Storage",
    "TagRules",
    "Tls",
    "UpstreamConfig",
    "effective_proxy",
    "is_loopback",
    "is_loopback_host",
    "is_wildcard",
    "load",
    "matches",
    "split_listen",
]
