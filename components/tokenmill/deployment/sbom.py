"""Software bills of materials (CycloneDX 1.6): which packages an environment holds, and what a release was made from.

Nothing in one changes from call to call (no time, a serial number that follows from the contents), so that the same
environment gives the same bytes.
"""

import re
import uuid
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Any

import orjson

from tokenmill.lineage import LineageGraph
from tokenmill.manifest import canonical

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

Metadata = Any
"""A distribution's own: an email message, whose fields importlib.metadata does not type."""
Packages = dict[str, Metadata]
"""By normalised name."""
SERIALS = uuid.UUID("5a0a4c0e-6a55-5c1f-9d4e-1f6f2a1b7c11")
"""Name space of our serial numbers: any fixed value does."""
LONGEST_LICENCE = 120
"""Characters; what is longer in a package's field `License` is the licence's text, not its name."""


def bill_of(release: dict[str, Any], digest: str, graph: LineageGraph) -> bytes:
    """The bill of a release: the model, the data and images of its lineage, and this environment's packages.

    Args:
        release: its release.json.
        digest: sha256 of that.
        graph: its lineage, from the store.
    """
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    model = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=release["name"],
        version=digest[:12],
        bom_ref=f"release/{digest}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
    )
    return _written(model, _installed(), [*_data(graph), *_images(graph)])


def bill_of_environment() -> bytes:
    """The bill of the environment that runs this, such as an image's."""
    from cyclonedx.model.component import Component, ComponentType

    packages = _installed()
    version = packages["tokenmill"]["Version"]
    root = Component(type=ComponentType.APPLICATION, name="tokenmill", version=version, bom_ref=f"tokenmill/{version}")
    return _written(root, packages)


def _written(root: "Component", packages: Packages, further: Iterable["Component"] = ()) -> bytes:
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.dependency import Dependency
    from cyclonedx.output.json import JsonV1Dot6

    listed = {name: _package(name, about) for name, about in packages.items()}
    others = list(further)
    bom = Bom(components=[*listed.values(), *others], metadata=BomMetaData(component=root))
    for name, one in listed.items():
        needs = [Dependency(listed[need].bom_ref) for need in _requirements(packages[name]) if need in listed]
        bom.dependencies.add(Dependency(one.bom_ref, needs))
    bom.dependencies.add(Dependency(root.bom_ref, [Dependency(one.bom_ref) for one in (*listed.values(), *others)]))
    written = orjson.loads(JsonV1Dot6(bom).output_as_string())
    del written["metadata"]["timestamp"], written["serialNumber"]
    return canonical(written | {"serialNumber": f"urn:uuid:{uuid.uuid5(SERIALS, canonical(written).decode())}"})


def _installed() -> Packages:
    """Every installed distribution; of two on the path the first is the one that is imported."""
    found: Packages = {}
    for one in metadata.distributions():
        about = one.metadata  # is read and parsed every time that it is asked for
        found.setdefault(_normal(about["Name"]), about)
    return dict(sorted(found.items()))


def _package(name: str, about: Metadata) -> "Component":
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=about["Version"],
        bom_ref=name,
        purl=PackageURL("pypi", name=name, version=about["Version"]),
        licenses=_licences(about),
    )


def _licences(of: Metadata) -> list[Any]:
    """What a package's own metadata says: an SPDX expression, else a name, else its classifiers; else nothing."""
    from cyclonedx.factory.license import LicenseFactory

    make = LicenseFactory()
    stated = of.get("License-Expression") or of.get("License") or ""
    if stated and len(stated) <= LONGEST_LICENCE and "\n" not in stated and stated.upper() != "UNKNOWN":
        return [make.make_from_string(stated)]
    classified = [c.rpartition(" :: ")[2] for c in of.get_all("Classifier") or () if c.startswith("License :: ")]
    return [make.make_with_name(name) for name in sorted(set(classified))]


def _requirements(of: Metadata) -> list[str]:
    """The distributions that one needs here, extras aside."""
    from packaging.requirements import Requirement

    wanted = map(Requirement, of.get_all("Requires-Dist") or ())
    return sorted({_normal(r.name) for r in wanted if not r.marker or r.marker.evaluate({"extra": ""})})


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _data(graph: LineageGraph) -> Iterator["Component"]:
    """Every raw source of the lineage, with its licence as it was registered."""
    from cyclonedx.factory.license import LicenseFactory
    from cyclonedx.model.component import Component, ComponentType

    for source in graph.sources:
        yield Component(
            type=ComponentType.DATA,
            name=source.name,
            version=source.digest[:12],
            description=source.origin or None,
            bom_ref=f"data/{source.name}/{source.digest}",
            licenses=[LicenseFactory().make_from_string(source.licence)] if source.licence else [],
        )


def _images(graph: LineageGraph) -> Iterator["Component"]:
    """Every container image that made something of the lineage, as the steps observed it."""
    from cyclonedx.model.component import Component, ComponentType

    seen = {str(node.observed["image"]) for node in graph.nodes.values() if node.observed.get("image")}
    for image in sorted(seen):
        name, separator, version = image.partition("@")
        if not separator:
            name, _, version = image.rpartition(":") if ":" in image.rpartition("/")[2] else (image, "", "")
        yield Component(type=ComponentType.CONTAINER, name=name, version=version or None, bom_ref=f"image/{image}")
