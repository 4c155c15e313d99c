"""Software bills of materials (CycloneDX 1.6): what a release was made from and in which environments, and what one holds.

Each step recorded the environment that it ran in, so a release's bill follows from the store: it says the same whoever asks
for it, on whatever machine. Nothing in one changes from call to call (no time, a serial number that follows from the
contents): the same lineage gives the same bytes.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import orjson

from tokenmill.environment import Environment, Package, SystemPackage, read_environment
from tokenmill.lineage import LineageGraph
from tokenmill.manifest import canonical
from tokenmill.store import ArtifactStore
from tokenmill.store.backend import NotFoundError

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from cyclonedx.model.dependency import Dependency

SERIALS = uuid.UUID("5a0a4c0e-6a55-5c1f-9d4e-1f6f2a1b7c11")
"""Name space of our serial numbers: any fixed value does."""


def bill_of(release: dict[str, Any], digest: str, graph: LineageGraph, store: ArtifactStore) -> bytes:
    """The bill of a release: the model, the data of its lineage, and every environment that made something of it.

    Args:
        release: its release.json.
        digest: sha256 of that.
        graph: its lineage, from the store.
        store: where steps recorded their environments.
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
    makers = list(_makers(graph, store))
    listed = [*_data(graph), *(_environment(*maker) for maker in makers)]
    return _written(model, listed, (need for prefix, held, _ in makers for need in _needs(prefix, held)))


def bill_of_environment(held: Environment) -> bytes:
    """The bill of one environment, such as an image's."""
    from cyclonedx.model.component import Component, ComponentType

    version = next((one.version for one in held.packages if one.name == "tokenmill"), None)
    root = Component(type=ComponentType.APPLICATION, name="tokenmill" if version else "environment", version=version)
    root.bom_ref.value = f"environment/{version}"
    return _written(root, _packages("", held), _needs("", held))


def _written(root: "Component", components: Iterable["Component"], needs: Iterable["Dependency"] = ()) -> bytes:
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.dependency import Dependency
    from cyclonedx.output.json import JsonV1Dot6

    listed = list(components)
    bom = Bom(components=listed, metadata=BomMetaData(component=root), dependencies=needs)
    bom.dependencies.add(Dependency(root.bom_ref, [Dependency(one.bom_ref) for one in listed]))
    written = orjson.loads(JsonV1Dot6(bom).output_as_string())
    del written["metadata"]["timestamp"], written["serialNumber"]
    return canonical(written | {"serialNumber": f"urn:uuid:{uuid.uuid5(SERIALS, canonical(written).decode())}"})


# ---- what is in an environment -----------------------------------------------------------------------------------------


def _packages(prefix: str, held: Environment) -> Iterator["Component"]:
    for python in held.packages:
        yield _package(prefix, python)
    for one in held.system_packages:
        yield _system_package(prefix, one, held.system)


def _needs(prefix: str, held: Environment) -> Iterator["Dependency"]:
    from cyclonedx.model.bom_ref import BomRef
    from cyclonedx.model.dependency import Dependency

    for one in held.packages:
        needs = [Dependency(BomRef(prefix + need)) for need in one.needs]
        yield Dependency(BomRef(prefix + one.name), needs)


def _package(prefix: str, about: Package) -> "Component":
    from cyclonedx.factory.license import LicenseFactory
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    make = LicenseFactory()
    stated = [make.make_from_string(about.licence)] if about.licence else map(make.make_with_name, about.classified)
    return Component(
        type=ComponentType.LIBRARY,
        name=about.name,
        version=about.version,
        bom_ref=prefix + about.name,
        purl=PackageURL("pypi", name=about.name, version=about.version),
        licenses=stated,
    )


def _system_package(prefix: str, about: SystemPackage, system: str) -> "Component":
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    where = {"arch": about.architecture} | ({"distro": system} if system else {})
    purl = PackageURL("deb", system.partition("-")[0] or "debian", about.name, about.version, where)
    ref = f"{prefix}deb/{about.name}/{about.architecture}"
    return Component(type=ComponentType.LIBRARY, name=about.name, version=about.version, bom_ref=ref, purl=purl)


# ---- what made a release -----------------------------------------------------------------------------------------------


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


def _makers(graph: LineageGraph, store: ArtifactStore) -> Iterator[tuple[str, Environment, list[str]]]:
    """Prefix of its references, environment, and the steps of the lineage that ran in it.

    Steps that recorded none stand under their image, or under no image, with no packages.
    """
    steps = defaultdict(set)
    for made in graph.nodes.values():
        steps[str(made.observed.get("environment", "")), str(made.observed.get("image", ""))].add(made.step)
    for (name, image), done in sorted(steps.items()):
        try:
            held = read_environment(store, name) if name else None
        except NotFoundError:
            held = None
        yield (
            f"{name[:12] or image or 'unrecorded'}/",
            held or Environment(image=image, commit="", python=""),
            sorted(done),
        )


def _environment(prefix: str, held: Environment, steps: Iterable[str]) -> "Component":
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    name, _, version = _image(held.image)
    elsewhere = "what was installed where these steps ran, outside any image" if not held.image else None
    told = {"commit": held.commit, "python": held.python, "system": held.system, "steps": " ".join(steps)}
    return Component(
        type=ComponentType.CONTAINER if held.image else ComponentType.PLATFORM,
        name=name or ("no image" if held.packages else "unrecorded"),
        version=version or None,
        description=elsewhere if held.packages else "nobody recorded its packages",
        bom_ref=f"environment/{prefix}",
        components=_packages(prefix, held),
        properties=[Property(name=f"tokenmill:{key}", value=value) for key, value in told.items() if value],
    )


def _image(image: str) -> tuple[str, str, str]:
    """Name, separator and tag or digest."""
    if "@" in image:
        return image.partition("@")
    return image.rpartition(":") if ":" in image.rpartition("/")[2] else (image, "", "")
