"""The `operators` and `helm` of an image set: checked in full, so that nothing else is wrong, and then refused."""

from __future__ import annotations

from mirror.config.values import SpellingError, expect_text
from mirror.offline.image_set.fields import Fields
from mirror.offline.image_set.once import Once
from mirror.offline.image_set.platforms import read_platforms
from mirror.offline.image_set.problems import quote
from mirror.offline.image_set.pullspecs import parse_image
from mirror.offline.image_set.targets import parse_tag, parse_target
from mirror.offline.image_set.versions import check_range, parse_operator

_MOST = 20_000
_AROUND = (
    "leave it out here; mirror it alone with `oc-mirror --v2 -c FILE file://DIR`, and give DIR to `mirror load DIR`"
)
_OCI = "oci://"


def refuse_operators(mirror: Fields) -> int:
    """Note everything that is wrong with `operators`, and each catalog as not supported; return how many there are."""
    once = Once()
    count = 0
    for one in mirror.sections("operators", _MOST):
        count += 1
        one.need("catalog", "catalog: registry.example/catalog:tag")
        catalog = one.parse("catalog", _parse_catalog) or ""
        name = _target_of(one, catalog)
        if name:
            said, what = {**one.data, "catalog": catalog}, f"the catalog {quote(name)}"
            once.is_new(one, name, said, what, "keep one, or set targetCatalog", key="catalog")
        one.flag("skipDependencies")
        one.parse("targetCatalogSourceTemplate", _parse_path)
        read_platforms(one)
        _check_packages(one)
        what = f"the operator catalog {quote(catalog or 'without a name')} is not yet supported"
        one.find("not_supported", what, None, _AROUND)
    return count


def _target_of(one: Fields, catalog: str) -> str:
    """Return the name under which oc-mirror would push a catalog."""
    target, tag = one.parse("targetCatalog", parse_target), one.parse("targetTag", parse_tag)
    if not catalog or (target is None and tag is None):
        return catalog
    if catalog.startswith(_OCI):
        return f"{target or catalog}:{tag or ''}"
    pullspec = parse_image(catalog)
    return f"{pullspec.host}/{target or pullspec.repository}:{tag or pullspec.tag or pullspec.digest}"


def _check_packages(catalog: Fields) -> None:
    full = catalog.flag("full")
    seen = Once()
    for package in catalog.sections("packages", _MOST):
        package.need("name", "name: my-operator")
        _check_once(package, seen, "package")
        package.text("defaultChannel")
        ranged = _check_versions(package, full=full)
        channels = Once()
        for channel in package.sections("channels", _MOST):
            channel.need("name", "name: stable")
            _check_once(channel, channels, "channel")
            if _check_versions(channel, full=full) and ranged:
                channel.find(
                    "contradiction",
                    f"the package {quote(package.text('name'))} and its channel both have a range of versions",
                    None,
                    "keep the range of the channel, or that of the package",
                )


def _check_once(one: Fields, seen: Once, noun: str) -> None:
    if name := one.text("name"):
        seen.is_new(one, name, one.data, f"the {noun} {quote(name)}")


def _check_versions(one: Fields, *, full: bool) -> bool:
    """Note what is wrong with a range of versions; tell whether there is one."""
    least, most = one.parse("minVersion", parse_operator), one.parse("maxVersion", parse_operator)
    check_range(one, least or "", most or "")
    ranged = "minVersion" in one or "maxVersion" in one
    if ranged and full:
        one.find(
            "contradiction",
            "`full: true` takes every version, but there is a range here",
            None,
            "keep `full`, or the range",
        )
    return ranged


def refuse_helm(mirror: Fields) -> int:
    """Note everything that is wrong with `helm`, and each chart as not supported; return how many entries there are."""
    helm = mirror.section("helm")
    count = 0
    seen = Once()
    for repository in helm.sections("repositories", _MOST):
        repository.need("name", "name: my-charts")
        repository.need("url", "url: https://charts.example")
        _check_once(repository, seen, "repository")
        repository.parse("url", _parse_url)
        charts = _check_charts(repository, "charts")
        if not charts:
            _refuse_chart(repository, f"repository {quote(repository.text('name'))}")
        count += charts or 1
    return count + _check_charts(helm, "local")


def _check_charts(at: Fields, key: str) -> int:
    count = 0
    seen = Once()
    for chart in at.sections(key, _MOST):
        count += 1
        chart.need("name", "name: my-chart")
        name, version = chart.text("name"), chart.text("version")
        if name:
            seen.is_new(chart, (name, version), chart.data, f"the chart {quote(name)}")
        if key == "local":
            chart.need("path", "path: /charts/my-chart-1.0.0.tgz")
        chart.parse("path", _parse_path)
        list(chart.values("imagePaths", _MOST, expect_text))
        read_platforms(chart)
        _refuse_chart(chart, f"chart {quote(name)}")
    return count


def _refuse_chart(at: Fields, which: str) -> None:
    at.find("not_supported", f"the Helm {which} is not yet supported", None, _AROUND)


def _parse_catalog(value: object) -> str:
    text = expect_text(value)
    if text.startswith(_OCI):
        _parse_path(text.removeprefix(_OCI))
        return text
    return str(parse_image(text))


def _parse_path(value: object) -> str:
    text = expect_text(value)
    if not text.startswith("/"):
        raise SpellingError(f"{quote(text)} is not an absolute path", "write it from / on")
    return text


def _parse_url(value: object) -> str:
    text = expect_text(value)
    if not text.startswith(("https://", "http://")):
        raise SpellingError(f"{quote(text)} is not the URL of a repository of charts", "write https://…")
    return text
