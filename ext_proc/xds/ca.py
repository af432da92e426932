"""The local certificate authority of TLS mode. It is made when the gate starts, and its key never leaves memory.

It can vouch for nothing but the registered hosts (RFC 5280, 4.2.1.10 name constraints), so a client that trusts it
gives Douane no more than it already has. A reload that registers more hosts issues the CA's certificate again with
the same key and name: leaves of before stay good under both, and clients started later find the new one in the bundle.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFE = timedelta(days=397)  # the longest that clients commonly take for a leaf; a gate is restarted sooner
_SKEW = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A host's certificate and its key, PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


class CertificateAuthority:
    """An EC P-256 CA in memory, and one leaf a host."""

    def __init__(self, hosts: Iterable[str] = ()) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._made = datetime.now(UTC)
        serial = x509.random_serial_number()
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Douane local CA {serial:040x}"[:64])])
        self._hosts: frozenset[str] = frozenset()
        self._leaves: dict[str, Leaf] = {}
        self._certificate = self._issue()
        self.admit(hosts)

    def admit(self, hosts: Iterable[str]) -> None:
        """Take more hosts into the name constraints. Hosts that are gone stay, for connections that still use them."""
        wider = self._hosts | frozenset(hosts)
        if wider != self._hosts:
            self._hosts = wider
            self._certificate = self._issue()

    @property
    def certificate(self) -> bytes:
        """The CA's certificate, PEM."""
        return self._certificate.public_bytes(Encoding.PEM)

    def leaf(self, host: str) -> Leaf:
        """The host's certificate, made at the first call. ValueError for a host that was not admitted."""
        if host not in self._hosts:
            raise ValueError(f"{host} is not a registered host")
        if host not in self._leaves:
            self._leaves[host] = self._sign(host)
        return self._leaves[host]

    def _issue(self) -> x509.Certificate:
        # Without a host there is no subtree to permit, so nothing but an invalid name is: the CA vouches for no one.
        permitted = [x509.DNSName(host) for host in sorted(self._hosts)] or [x509.DNSName("invalid")]
        everything = [x509.IPAddress(ip_network("0.0.0.0/0")), x509.IPAddress(ip_network("::/0"))]
        return (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(key_cert_sign=True), critical=True)
            .add_extension(x509.NameConstraints(permitted, everything), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def _sign(self, host: str) -> Leaf:
        key = ec.generate_private_key(ec.SECP256R1())
        # The name is in the SAN; the subject stays empty, for a common name holds no more than 64 characters. An
        # empty subject makes the SAN critical (RFC 5280, 4.2.1.6).
        certificate = (
            self._builder(x509.Name([]), key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return Leaf(
            certificate.public_bytes(Encoding.PEM),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )

    def _builder(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._made - _SKEW)
            .not_valid_after(self._made + _LIFE)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
