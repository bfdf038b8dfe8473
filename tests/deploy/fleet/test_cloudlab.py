from __future__ import annotations

from pathlib import Path

import pytest

from block.errors import DeployError
from deploy.fleet.cloudlab import read_manifest

NODE = """
  <node client_id="{name}" exclusive="true">
    <services>
      <login authentication="ssh-keys" hostname="{name}.example.us" port="{port}" username="ann"/>
      <login authentication="ssh-keys" hostname="{name}.example.us" port="{port}" username="bob"/>
    </services>
    <interface client_id="{name}:eth1">
      <ip address="10.10.1.{last}" netmask="255.255.255.0" type="ipv4"/>
    </interface>
    <emulab:vnode name="pc1" hardware_type="{hardware}"/>
  </node>"""
HEAD = (
    '<rspec xmlns="http://www.geni.net/resources/rspec/3" '
    'xmlns:emulab="http://www.protogeni.net/resources/rspec/ext/emulab/1" type="manifest">'
)


def manifest(folder: Path, *nodes: str, before: str = "") -> Path:
    path = folder / "manifest.xml"
    path.write_text(f"<?xml version='1.0'?>{before}{HEAD}{''.join(nodes)}</rspec>")
    return path


def node(name: str, last: int, hardware: str = "d7525", port: int = 22) -> str:
    return NODE.format(name=name, last=last, hardware=hardware, port=port)


def test_nodes_become_hosts_on_the_experiments_own_network(tmp_path: Path) -> None:
    path = manifest(tmp_path, node("node0", 1), node("node1", 2, "c6420", 2222))
    first, second = read_manifest(path, "bob")
    assert (first.name, first.address, first.ssh, first.gpus) == (
        "node0",
        "10.10.1.1",
        "bob@node0.example.us",
        1,
    )
    assert (second.gpus, second.port) == (0, 2222)
    assert [host.gpus for host in read_manifest(path, "bob", gpus=4)] == [4, 4]


@pytest.mark.parametrize(
    "before",
    [
        '<!DOCTYPE rspec [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>',
        '<!DOCTYPE rspec SYSTEM "http://127.0.0.1:9/rspec.dtd">',
        '<!DOCTYPE rspec [<!ENTITY f SYSTEM "file:///etc/passwd">]>',
    ],
)
def test_entities_and_document_types_are_refused(tmp_path: Path, before: str) -> None:
    with pytest.raises(DeployError, match=r"manifest\.xml: the manifest has a document type \(rspec\)"):
        read_manifest(manifest(tmp_path, node("node0", 1), before=before), "bob")


def test_what_is_no_manifest_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="no node to log in to"):
        read_manifest(manifest(tmp_path), "bob")
    with pytest.raises(DeployError, match="a node's name is 'a;b'"):
        read_manifest(manifest(tmp_path, node("a;b", 1)), "bob")
    (tmp_path / "broken.xml").write_text("<rspec>")
    with pytest.raises(DeployError, match="not valid XML"):
        read_manifest(tmp_path / "broken.xml", "bob")
    with pytest.raises(DeployError, match="cannot be read"):
        read_manifest(tmp_path / "none.xml", "bob")
