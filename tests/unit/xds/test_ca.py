"""The local CA: what a client that trusts it gives away is only the registered hosts."""

from __future__ import annotations

import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ext_proc.xds.ca import CertificateAuthority, Leaf


def handshake(leaf: Leaf, trusted: bytes, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A TLS handshake in memory, strictly verified. ssl.SSLError when the client refuses."""
    chain = tmp_path_factory.mktemp("leaf") / "leaf.pem"
    chain.write_bytes(leaf.key + leaf.certificate)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(chain)
    client_context = ssl.create_default_context(cadata=trusted.decode())
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue


def test_leaf_is_good_for_its_host_only(tmp_path_factory: pytest.TempPathFactory) -> None:
    authority = CertificateAuthority(["a.example.com", "b.example.com"])
    handshake(authority.leaf("a.example.com"), authority.certificate, "a.example.com", tmp_path_factory)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(authority.leaf("a.example.com"), authority.certificate, "b.example.com", tmp_path_factory)
    other = CertificateAuthority(["a.example.com"])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(authority.leaf("a.example.com"), other.certificate, "a.example.com", tmp_path_factory)


def test_the_ca_cannot_vouch_for_others(tmp_path_factory: pytest.TempPathFactory) -> None:
    authority = CertificateAuthority(["a.example.com"])
    before = authority.certificate
    with pytest.raises(ValueError, match="not a registered host"):
        authority.leaf("evil.example.com")
    authority.admit(["evil.example.com"])  # what a stolen key could sign: the old certificate does not bear it
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        handshake(authority.leaf("evil.example.com"), before, "evil.example.com", tmp_path_factory)


def test_more_hosts_keep_key_name_and_leaves(tmp_path_factory: pytest.TempPathFactory) -> None:
    authority = CertificateAuthority(["a.example.com"])
    before, leaf = authority.certificate, authority.leaf("a.example.com")
    authority.admit(["b.example.com"])
    assert authority.certificate != before
    assert authority.leaf("a.example.com") is leaf
    handshake(leaf, before, "a.example.com", tmp_path_factory)
    handshake(leaf, authority.certificate, "a.example.com", tmp_path_factory)
    handshake(authority.leaf("b.example.com"), authority.certificate, "b.example.com", tmp_path_factory)
    again = authority.certificate
    authority.admit(["a.example.com"])
    assert authority.certificate == again


def test_a_ca_without_hosts_vouches_for_no_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    authority = CertificateAuthority()
    none = authority.certificate
    authority.admit(["a.example.com"])
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        handshake(authority.leaf("a.example.com"), none, "a.example.com", tmp_path_factory)


def test_keys_are_p256_and_never_shown() -> None:
    authority = CertificateAuthority(["a.example.com"])
    leaf = authority.leaf("a.example.com")
    assert "PRIVATE" not in repr(leaf)
    key = load_pem_private_key(leaf.key, None)
    certificate = x509.load_pem_x509_certificate(leaf.certificate)
    assert certificate.public_key() == key.public_key()
    assert key.public_key().curve.name == "secp256r1"  # type: ignore[union-attr]
    constraints = x509.load_pem_x509_certificate(authority.certificate).extensions.get_extension_for_class(
        x509.NameConstraints
    )
    assert constraints.critical
    assert constraints.value.permitted_subtrees == [x509.DNSName("a.example.com")]
