"""Reading a CloudLab manifest: which nodes an experiment has got, and how they are reached.

The manifest comes from elsewhere, so nothing in it is expanded or fetched: a document type, which entities
would need, is refused.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from xml.etree import ElementTree as ET

from pydantic import ValidationError

from block.errors import DeployError
from block.fleet_config import HostConfig

_LARGEST_BYTES = 16 * 2**20
_GPUS = {"c240g5": 1, "c4130": 4, "d7525": 1, "d8545": 4, "nvidiagh": 1, "r7525": 2}
"""CloudLab's hardware types that have GPUs."""


class _PlainTree(ET.TreeBuilder):
    """A tree without a document type."""

    def doctype(self, name: str, *_: str | None) -> None:
        """Refuse it before anything in it is read."""
        raise DeployError(f"the manifest has a document type ({name}), as no manifest of CloudLab does")


def read_manifest(path: Path, username: str, gpus: int | None = None) -> tuple[HostConfig, ...]:
    """The nodes of a manifest as hosts. ``gpus``: of each node; None takes what its hardware type has.

    Raises DeployError when the file cannot be read, is no manifest or has no node to log in to.
    """
    try:
        text = path.read_bytes()
        if len(text) > _LARGEST_BYTES:
            raise DeployError(f"{path}: too large for a manifest")
        tree = ET.fromstring(text, ET.XMLParser(target=_PlainTree()))
    except OSError as error:
        raise DeployError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ET.ParseError as error:
        raise DeployError(f"{path}: not valid XML ({error}); download the manifest again") from error
    except DeployError as error:
        raise DeployError(f"{path}: {error}") from error
    nodes = [node for node in tree.iterfind(".//{*}node") if node.find(".//{*}login") is not None]
    if not nodes:
        raise DeployError(
            f"{path}: no node to log in to; take the manifest (not the request) of an experiment that is up"
        )
    try:
        return tuple(_host(node, username, gpus) for node in nodes)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise DeployError(f"{path}: a node's {field} is {first['input']!r}: {first['msg']}") from error


def _host(node: ET.Element, username: str, gpus: int | None) -> HostConfig:
    logins = list(node.iterfind(".//{*}login"))
    login = next((each for each in logins if each.get("username") == username), logins[0])
    hostname = login.get("hostname", "")
    port = login.get("port", "22")
    known = _GPUS.get(_hardware(node), 0)
    return HostConfig(
        name=node.get("client_id") or hostname,
        address=_experiment_address(node) or hostname,
        ssh=f"{username}@{hostname}",
        port=int(port) if port.isdecimal() and port != "22" else None,
        gpus=known if gpus is None else gpus,
    )


def _hardware(node: ET.Element) -> str:
    vnode = node.find("{*}vnode")
    if vnode is not None and vnode.get("hardware_type"):
        return str(vnode.get("hardware_type"))
    kind = node.find("{*}hardware_type")
    return str(kind.get("name")) if kind is not None else ""


def _experiment_address(node: ET.Element) -> str:
    """Its address on the experiment's own network, which is fast and not open to the world."""
    for ip in node.iterfind("{*}interface/{*}ip"):
        try:
            return str(ipaddress.IPv4Address(ip.get("address", "")))
        except ValueError:
            continue
    return ""
