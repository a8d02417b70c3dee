"""The CA and its certificates, judged by those who must accept them: OpenSSL, GnuTLS, Python's ssl. Never touches the user's own CA."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stackctl import ca
from stackctl.errors import TimedOut, UsageError

pytestmark = pytest.mark.feature("A3")

NOW = datetime.now(UTC)
NAMES = ("mail.example.test", "dovecot.example.test", "localhost", "127.0.0.1", "::1")


@pytest.fixture(scope="module")
def authority() -> ca.Pair:
    return ca.make_ca(None, NOW)


@pytest.fixture(scope="module")
def leaf(authority: ca.Pair) -> ca.Pair:
    return ca.make_leaf(authority, NAMES, NOW)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ca"


def parsed(pair: ca.Pair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate)


def signed_anyway(authority: ca.Pair, *names: str) -> ca.Pair:
    """What someone who stole the CA's key would make: no check of the names."""
    return ca._sign(parsed(authority), ca._key(authority.key), [_name(name) for name in names], NOW)


def _name(name: str) -> ca.Name:
    try:
        return ip_address(name)
    except ValueError:
        return name


def handshake(tmp_path: Path, server: ca.Pair, trusted: bytes, name: str) -> str:
    """A whole TLS handshake between two sockets; returns the protocol version, raises what the client raises."""
    chain = tmp_path / "server.pem"
    chain.write_bytes(server.key + server.certificate)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(chain)
    client_side = ssl.create_default_context(cadata=trusted.decode())
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN  # the default from Python 3.13 on
    near, far = socket.socketpair()
    near.settimeout(10)
    far.settimeout(10)

    def serve() -> None:
        try:
            with server_side.wrap_socket(far, server_side=True) as session:
                session.sendall(b"+OK ready\r\n")
        except (ssl.SSLError, OSError):  # the client's side tells why
            far.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        with client_side.wrap_socket(near, server_hostname=name) as session:
            assert session.recv(64) == b"+OK ready\r\n"
            return str(session.version())
    finally:
        near.close()
        thread.join(10)


def openssl(tmp_path: Path, authority: bytes, leaf: bytes, *options: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "root.pem").write_bytes(authority)
    (tmp_path / "leaf.pem").write_bytes(leaf)
    argv = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", *options, "-CAfile", "root.pem", "leaf.pem"]
    return subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=30)


needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="the openssl command is not installed")


class TestClientsAccept:
    @pytest.mark.parametrize("name", NAMES)
    def test_each_name_of_the_certificate(self, tmp_path: Path, authority: ca.Pair, leaf: ca.Pair, name: str) -> None:
        assert handshake(tmp_path, leaf, authority.certificate, name) == "TLSv1.3"

    @pytest.mark.parametrize("name", ["other.example.test", "example.test", "127.0.0.2", "::2"])
    def test_but_no_other_name(self, tmp_path: Path, authority: ca.Pair, leaf: ca.Pair, name: str) -> None:
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            handshake(tmp_path, leaf, authority.certificate, name)

    def test_but_not_from_another_ca(self, tmp_path: Path, leaf: ca.Pair) -> None:
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer certificate"):
            handshake(tmp_path, leaf, ca.make_ca(None, NOW).certificate, NAMES[0])

    @pytest.mark.parametrize("name", ["mail.example.edu", "test.example.edu", "mail-test", "exampletest", "192.0.2.1", "2001:db8::1"])
    def test_but_not_a_name_outside_the_constraints(self, tmp_path: Path, authority: ca.Pair, name: str) -> None:
        with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
            handshake(tmp_path, signed_anyway(authority, name), authority.certificate, name)

    def test_but_not_one_foreign_name_among_good_ones(self, tmp_path: Path, authority: ca.Pair) -> None:
        with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
            handshake(tmp_path, signed_anyway(authority, NAMES[0], "mail.example.edu"), authority.certificate, NAMES[0])

    def test_a_certificate_for_addresses_alone(self, tmp_path: Path, authority: ca.Pair) -> None:
        assert handshake(tmp_path, ca.make_leaf(authority, ["127.0.0.1"], NOW), authority.certificate, "127.0.0.1")

    def test_a_name_longer_than_a_common_name(self, tmp_path: Path, authority: ca.Pair) -> None:
        name = f"{'a' * 60}.example.test"
        long = ca.make_leaf(authority, [name, "localhost"], NOW)
        assert handshake(tmp_path, long, authority.certificate, name)
        assert not parsed(long).subject.get_attributes_for_oid(NameOID.COMMON_NAME)

    def test_a_wildcard(self, tmp_path: Path, authority: ca.Pair) -> None:
        server = ca.make_leaf(authority, ["*.example.test"], NOW)
        assert handshake(tmp_path, server, authority.certificate, "any.example.test")
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            handshake(tmp_path, server, authority.certificate, "two.labels.example.test")

    @pytest.mark.parametrize("domain", list(ca.PERMITTED))
    def test_every_permitted_domain_and_below(self, tmp_path: Path, authority: ca.Pair, domain: str) -> None:
        server = ca.make_leaf(authority, [f"mail.{domain}"], NOW)
        assert handshake(tmp_path, server, authority.certificate, f"mail.{domain}")

    @needs_openssl
    @pytest.mark.parametrize("name", NAMES)
    def test_openssl_in_strict_mode(self, tmp_path: Path, authority: ca.Pair, leaf: ca.Pair, name: str) -> None:
        option = "-verify_hostname" if isinstance(_name(name), str) else "-verify_ip"
        done = openssl(tmp_path, authority.certificate, leaf.certificate, option, name)
        assert (done.returncode, done.stdout) == (0, "leaf.pem: OK\n"), done.stderr

    @needs_openssl
    def test_openssl_neither_as_client_nor_as_ca(self, tmp_path: Path, authority: ca.Pair, leaf: ca.Pair) -> None:
        assert "unsuitable certificate purpose" in openssl(tmp_path, authority.certificate, leaf.certificate, "-purpose", "sslclient").stderr
        assert openssl(tmp_path, authority.certificate, leaf.certificate, "-verify_hostname", "mail.example.edu").returncode != 0

    @pytest.mark.skipif(not shutil.which("certtool"), reason="GnuTLS's certtool is not installed (package gnutls-bin)")
    @pytest.mark.parametrize(("name", "good"), [("mail.example.test", True), ("127.0.0.1", True), ("other.example.test", False)])
    def test_gnutls(self, tmp_path: Path, authority: ca.Pair, leaf: ca.Pair, name: str, good: bool) -> None:
        assert self.certtool(tmp_path, authority, leaf, name) is good

    @pytest.mark.skipif(not shutil.which("certtool"), reason="GnuTLS's certtool is not installed (package gnutls-bin)")
    def test_gnutls_not_outside_the_constraints(self, tmp_path: Path, authority: ca.Pair) -> None:
        assert not self.certtool(tmp_path, authority, signed_anyway(authority, "mail.example.edu"), "mail.example.edu")

    def certtool(self, tmp_path: Path, authority: ca.Pair, server: ca.Pair, name: str) -> bool:
        (tmp_path / "root.pem").write_bytes(authority.certificate)
        (tmp_path / "leaf.pem").write_bytes(server.certificate)
        argv = ["certtool", "--verify", "--load-ca-certificate", "root.pem", "--infile", "leaf.pem", "--verify-hostname", name]
        argv += ["--verify-purpose", ExtendedKeyUsageOID.SERVER_AUTH.dotted_string]
        return subprocess.run(argv, cwd=tmp_path, capture_output=True, timeout=30).returncode == 0

    @needs_openssl
    @pytest.mark.parametrize(("address", "good"), [("ann@example.test", True), ("ann@test", True), ("ann@example.edu", False)])
    def test_a_stolen_key_signs_no_strangers_mail(self, tmp_path: Path, authority: ca.Pair, address: str, good: bool) -> None:
        key = rsa.generate_private_key(65537, 2048)
        person = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(parsed(authority).subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(minutes=5))
            .not_valid_after(NOW + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(address)]), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
            .sign(ca._key(authority.key), hashes.SHA256())
        )
        (tmp_path / "root.pem").write_bytes(authority.certificate)
        (tmp_path / "person.pem").write_bytes(person.public_bytes(Encoding.PEM))
        argv = ["openssl", "verify", "-purpose", "smimesign", "-CAfile", "root.pem", "person.pem"]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=30)
        assert (done.returncode == 0) is good and (good or "permitted subtree violation" in done.stderr)

    def test_the_strict_verifier_of_browsers_and_rust(self, authority: ca.Pair, leaf: ca.Pair) -> None:
        builder = x509.verification.PolicyBuilder().store(x509.verification.Store([parsed(authority)])).time(NOW)
        verifier = builder.build_server_verifier(x509.DNSName(NAMES[0]))
        assert len(verifier.verify(parsed(leaf), [])) == 2
        with pytest.raises(x509.verification.VerificationError):
            builder.build_server_verifier(x509.DNSName("other.example.test")).verify(parsed(leaf), [])


class TestWhatIsInThem:
    def test_the_ca(self, authority: ca.Pair) -> None:
        root = parsed(authority)
        basic = root.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = root.extensions.get_extension_for_class(x509.KeyUsage)
        constraints = root.extensions.get_extension_for_class(x509.NameConstraints)
        assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
        assert usage.critical and usage.value.key_cert_sign and usage.value.crl_sign and not usage.value.digital_signature
        assert constraints.critical
        assert {n.value for n in constraints.value.permitted_subtrees or () if isinstance(n, x509.DNSName)} == set(ca.PERMITTED)
        assert timedelta(days=3650) <= root.not_valid_after_utc - root.not_valid_before_utc <= timedelta(days=3654)

    def test_the_ca_says_whose_it_is(self, authority: ca.Pair) -> None:
        (name,) = parsed(authority).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        assert str(name.value).startswith("stackctl development CA (") and socket.gethostname()[:20] in str(name.value)

    def test_a_long_owner_is_cut_to_what_a_common_name_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "gethostname", lambda: "h" * 64)
        (name,) = parsed(ca.make_ca(["mycorp.com"], NOW)).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        assert len(name.value) == 64

    def test_each_ca_has_a_subject_of_its_own(self, authority: ca.Pair) -> None:
        assert parsed(authority).subject != parsed(ca.make_ca(None, NOW)).subject

    def test_the_leaf(self, leaf: ca.Pair) -> None:
        cert = parsed(leaf)
        usage = cert.extensions.get_extension_for_class(x509.KeyUsage).value
        san = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert usage.digital_signature and not usage.key_cert_sign and not usage.key_encipherment
        assert list(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
        assert (*san.get_values_for_type(x509.DNSName), *map(str, san.get_values_for_type(x509.IPAddress))) == NAMES
        assert cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == NAMES[0]
        assert cert.not_valid_after_utc - cert.not_valid_before_utc <= timedelta(days=397)
        assert abs(NOW - cert.not_valid_before_utc - timedelta(hours=1)) < timedelta(seconds=2)

    @needs_openssl
    def test_the_certificate_of_a_client(self, tmp_path: Path, authority: ca.Pair) -> None:
        made = ca.make_client(authority, "alice@example.test", NOW)
        san = parsed(made).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert san.get_values_for_type(x509.RFC822Name) == ["alice@example.test"] and len(san) == 1
        assert parsed(made).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "alice@example.test"
        assert openssl(tmp_path, authority.certificate, made.certificate, "-purpose", "sslclient").returncode == 0
        assert "unsuitable certificate purpose" in openssl(tmp_path, authority.certificate, made.certificate).stderr
        stolen = ca._sign(parsed(authority), ca._key(authority.key), ["alice@example.edu"], NOW, client=True)
        assert "permitted subtree violation" in openssl(tmp_path, authority.certificate, stolen.certificate, "-purpose", "sslclient").stderr

    @needs_openssl
    def test_the_list_of_revoked_certificates(self, tmp_path: Path, authority: ca.Pair) -> None:
        good, bad = (ca.make_client(authority, "alice@example.test", NOW) for _ in range(2))
        serial = parsed(bad).serial_number
        assert parsed(bad).subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)[0].value == f"{serial:x}"
        crl = ca.make_crl(authority, {serial: NOW}, NOW)
        assert ca.of_crl(crl, authority.certificate) == frozenset([serial])
        assert ca.of_crl(ca.make_crl(authority, {}, NOW), authority.certificate) == frozenset()
        for other in (ca.make_ca(None, NOW).certificate, b"garbage"):
            assert ca.of_crl(crl, other) is None
        assert ca.of_crl(authority.certificate, authority.certificate) is None
        trusted = authority.certificate + crl
        assert openssl(tmp_path, trusted, good.certificate, "-crl_check_all", "-purpose", "sslclient").returncode == 0
        assert "certificate revoked" in openssl(tmp_path, trusted, bad.certificate, "-crl_check_all", "-purpose", "sslclient").stderr
        assert "unable to get certificate CRL" in openssl(tmp_path, authority.certificate, good.certificate, "-crl_check_all", "-purpose", "sslclient").stderr

    def test_a_ca_that_may_sign_no_lists_signs_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = ca._key_usage
        monkeypatch.setattr(ca, "_key_usage", lambda **what: usage(**{**what, "crl_sign": False}))  # as mkcert's
        assert ca.make_crl(ca.make_ca(None, NOW), {}, NOW) == b""

    @pytest.mark.parametrize(("address", "why"), [("alice@example.edu", "may not sign for alice"), (f"{'a' * 64}@example.test", "at most 64")])
    def test_no_certificate_for_a_client_that_no_server_would_take(self, authority: ca.Pair, address: str, why: str) -> None:
        with pytest.raises(UsageError, match=why):
            ca.make_client(authority, address, NOW)

    def test_serial_numbers_are_random(self, authority: ca.Pair) -> None:
        serials = [parsed(ca.make_leaf(authority, ["localhost"], NOW)).serial_number for _ in range(20)]
        assert len(set(serials)) == 20 and max(serials).bit_length() > 64

    def test_a_leaf_never_outlives_its_ca(self, authority: ca.Pair) -> None:
        root = parsed(authority)
        late = parsed(ca.make_leaf(authority, ["localhost"], root.not_valid_after_utc - timedelta(days=1)))
        early = parsed(ca.make_leaf(authority, ["localhost"], root.not_valid_before_utc))
        assert late.not_valid_after_utc == root.not_valid_after_utc
        assert early.not_valid_before_utc == root.not_valid_before_utc

    def test_the_key_does_not_show_in_a_traceback(self, leaf: ca.Pair) -> None:
        assert "PRIVATE" not in repr(leaf)

    @pytest.mark.parametrize("names", [["mail.example.edu"], ["mail.example.test", "192.0.2.1"], ["2001:db8::1"], ["notexample.com"]])
    def test_a_name_that_no_client_would_accept_is_refused(self, authority: ca.Pair, names: list[str]) -> None:
        with pytest.raises(UsageError, match="may not sign for") as refused:
            ca.make_leaf(authority, names, NOW)
        assert names[-1] in refused.value.message and refused.value.hint

    @pytest.mark.parametrize("name", ["", "a b", "mäil.test", "../../etc", "a..test", "-a.test", "x" * 64 + ".test", "mail.test\n", "a.*.test"])
    def test_what_is_no_name_is_refused(self, authority: ca.Pair, name: str) -> None:
        with pytest.raises(UsageError, match="neither a host name nor an IP address"):
            ca.make_leaf(authority, ["localhost", name], NOW)

    def test_no_name_at_all_is_refused(self, authority: ca.Pair) -> None:
        with pytest.raises(UsageError, match="at least one name"):
            ca.make_leaf(authority, [], NOW)


class TestRenewal:
    def test_a_good_certificate_stays(self, authority: ca.Pair, leaf: ca.Pair) -> None:
        assert ca.needs_renewal(leaf.certificate, authority.certificate, NAMES, NOW) is None

    def test_the_order_and_the_case_of_names_do_not_matter(self, authority: ca.Pair, leaf: ca.Pair) -> None:
        names = ["0:0:0:0:0:0:0:1", *(name.upper() for name in reversed(NAMES))]
        assert ca.needs_renewal(leaf.certificate, authority.certificate, names, NOW) is None

    @pytest.mark.parametrize(
        ("later", "reason"),
        [
            (timedelta(days=389), None),
            (timedelta(days=391), "it ends on"),
            (timedelta(days=398), "it expired on"),
            (timedelta(hours=-1, minutes=-1), "it is valid from"),
        ],
    )
    def test_time(self, authority: ca.Pair, leaf: ca.Pair, later: timedelta, reason: str | None) -> None:
        found = ca.needs_renewal(leaf.certificate, authority.certificate, NAMES, NOW + later)
        assert found is None if reason is None else reason in str(found)

    def test_one_that_ends_with_its_ca_is_not_renewed_over_and_over(self, authority: ca.Pair) -> None:
        end = parsed(authority).not_valid_after_utc
        last = ca.make_leaf(authority, ["localhost"], end - timedelta(days=3))
        assert ca.needs_renewal(last.certificate, authority.certificate, ["localhost"], end - timedelta(days=2)) is None
        assert "expired" in str(ca.needs_renewal(last.certificate, authority.certificate, ["localhost"], end))

    def test_another_ca(self, leaf: ca.Pair) -> None:
        assert ca.needs_renewal(leaf.certificate, ca.make_ca(None, NOW).certificate, NAMES, NOW) == "another CA signed it"

    @pytest.mark.parametrize("names", [NAMES[:-1], (*NAMES, "new.example.test")])
    def test_other_names(self, authority: ca.Pair, leaf: ca.Pair, names: tuple[str, ...]) -> None:
        assert "it is for" in str(ca.needs_renewal(leaf.certificate, authority.certificate, names, NOW))

    @pytest.mark.parametrize("damage", [lambda pem: b"", lambda pem: b"nonsense", lambda pem: pem[:200], lambda pem: pem.replace(b"M", b"!", 1)])
    def test_an_unreadable_one(self, authority: ca.Pair, leaf: ca.Pair, damage: Callable[[bytes], bytes]) -> None:
        assert ca.needs_renewal(damage(leaf.certificate), authority.certificate, NAMES, NOW) == "it cannot be read"

    def test_one_without_names(self, authority: ca.Pair) -> None:
        assert ca.needs_renewal(authority.certificate, authority.certificate, NAMES, NOW) == "it names no host"


class TestTheFolder:
    @pytest.mark.parametrize(
        ("env", "expected"),
        [
            ({"CAROOT": "/srv/ca", "XDG_DATA_HOME": "/data", "HOME": "/home/ann"}, "/srv/ca"),
            ({"XDG_DATA_HOME": "/data", "HOME": "/home/ann"}, "/data/stackctl/ca"),
            ({"XDG_DATA_HOME": "relative", "HOME": "/home/ann"}, "/home/ann/.local/share/stackctl/ca"),
            ({"CAROOT": "", "XDG_DATA_HOME": "", "HOME": "/home/ann"}, "/home/ann/.local/share/stackctl/ca"),
        ],
    )
    def test_where_it_is(self, env: dict[str, str], expected: str) -> None:
        assert ca.caroot(env) == Path(expected)

    def test_a_new_ca_is_private_and_stays(self, folder: Path) -> None:
        made = ca.load_or_make_ca(folder, ["example.test", "inbox.example.test"], NOW)
        assert made.certificate_path == folder / "rootCA.pem"
        assert made == ca.load_or_make_ca(folder, ["other.test"], NOW + timedelta(days=300))
        modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())}
        assert modes == {"ca": 0o700, "rootCA.pem": 0o644, "rootCA-key.pem": 0o400}
        assert made.pair == ca.Pair((folder / "rootCA.pem").read_bytes(), (folder / "rootCA-key.pem").read_bytes())

    def test_a_loose_umask_changes_nothing(self, folder: Path) -> None:
        before = os.umask(0)
        try:
            ca.load_or_make_ca(folder / "a" / "b", ["example.test"], NOW)
        finally:
            os.umask(before)
        assert {path.stat().st_mode & 0o777 for path in (folder, folder / "a", folder / "a" / "b")} == {0o700}

    def test_processes_at_once_end_up_with_the_same_ca(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        barrier, results = context.Barrier(4), context.SimpleQueue()
        children = [context.Process(target=_make, args=(folder, barrier, results)) for _ in range(4)]
        for child in children:
            child.start()
        for child in children:
            child.join(30)
        assert [child.exitcode for child in children] == [0] * 4
        assert {results.get() for _ in children} == {(folder / "rootCA.pem").read_bytes()}
        assert sorted(path.name for path in folder.iterdir()) == ["rootCA-key.pem", "rootCA.pem"]

    def test_a_lock_that_is_never_released_is_not_waited_for_for_ever(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ca, "_LOCK_SECONDS", 0.05)
        folder.mkdir()
        with ca._locked(folder), pytest.raises(TimedOut, match="another process"):
            ca.load_or_make_ca(folder, ["example.test"], NOW)

    def test_an_interrupt_leaves_nothing_half_made(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real, calls = os.replace, iter([False, True])

        def interrupted(source: str, target: Path) -> None:
            if next(calls):
                raise KeyboardInterrupt
            real(source, target)

        monkeypatch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ca.load_or_make_ca(folder, ["example.test"], NOW)
        assert list(folder.iterdir()) == []
        monkeypatch.undo()
        ca.load_or_make_ca(folder, ["example.test"], NOW)

    def test_import_costs_no_cryptography(self) -> None:
        code = "import sys, stackctl.ca, stackctl.trust; sys.exit('cryptography' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=30, cwd=Path(ca.__file__).parent.parent)


def _make(folder: Path, barrier: object, results: object) -> None:
    barrier.wait(30)  # type: ignore[attr-defined]
    results.put(ca.load_or_make_ca(folder, ["example.test"], NOW).pair.certificate)  # type: ignore[attr-defined]


class TestOwnDomains:
    def test_a_real_domain_gets_a_ca_for_it_alone(self, tmp_path: Path, folder: Path) -> None:
        own = ca.load_or_make_ca(folder, ["dev.mycorp.com", "inbox.dev.mycorp.com"], NOW)
        assert own.certificate_path == folder / "domains" / "dev.mycorp.com" / "rootCA.pem"
        assert not (folder / "rootCA.pem").exists()
        names = ["mail.dev.mycorp.com", "localhost", "127.0.0.1"]
        for name in names:
            assert handshake(tmp_path, ca.make_leaf(own.pair, names, NOW), own.pair.certificate, name)
        for name in ("mail.mycorp.com", "mail.example.test", "192.0.2.1"):
            with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
                handshake(tmp_path, signed_anyway(own.pair, name), own.pair.certificate, name)

    def test_the_main_ca_is_untouched_by_it(self, folder: Path) -> None:
        main = ca.load_or_make_ca(folder, ["example.test"], NOW)
        own = ca.load_or_make_ca(folder, ["dev.mycorp.com", "example.test"], NOW)
        assert own.pair != main.pair and own.certificate_path.parent.name == "dev.mycorp.com+example.test"
        assert ca.forbidden(own.pair.certificate, ["a.dev.mycorp.com", "b.example.test", "c.test", "::1"]) == ("c.test",)
        assert ca.load_or_make_ca(folder, ["example.test"], NOW) == main
        assert ca.load_or_make_ca(folder, ["example.test", "DEV.mycorp.com"], NOW) == own

    def test_an_address_of_this_machine(self, tmp_path: Path, folder: Path) -> None:
        own = ca.load_or_make_ca(folder, ["example.test", "192.0.2.7"], NOW)
        assert handshake(tmp_path, ca.make_leaf(own.pair, ["192.0.2.7"], NOW), own.pair.certificate, "192.0.2.7")
        assert ca.forbidden(own.pair.certificate, ["192.0.2.7", "192.0.2.8"]) == ("192.0.2.8",)

    def test_its_name_does_not_lead_out_of_the_folder(self, folder: Path) -> None:
        with pytest.raises(UsageError):
            ca.load_or_make_ca(folder, ["../../evil.com"], NOW)
        assert not folder.exists()

    def test_too_many_for_a_file_name(self, folder: Path) -> None:
        with pytest.raises(UsageError, match="too many domains"):
            ca.load_or_make_ca(folder, [f"{'d' * 40}{n}.com" for n in range(9)], NOW)


@pytest.fixture
def like_mkcert(folder: Path) -> ca.Pair:
    """A CA as mkcert makes it: RSA 3072, PKCS#8, the key usage critical, no name constraints; its folder is 0755."""
    key = rsa.generate_private_key(65537, 3072)
    texts = {NameOID.ORGANIZATION_NAME: "mkcert development CA", NameOID.COMMON_NAME: "mkcert ann@host"}
    subject = x509.Name([x509.NameAttribute(oid, text) for oid, text in texts.items()])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(minutes=5))
        .not_valid_after(NOW + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(ca._key_usage(key_cert_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(mode=0o755)
    pair = ca.Pair(certificate.public_bytes(Encoding.PEM), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "rootCA.pem").write_bytes(pair.certificate)
    (folder / "rootCA-key.pem").write_bytes(pair.key)
    (folder / "rootCA-key.pem").chmod(0o400)
    return pair


class TestMkcert:
    def test_its_ca_is_used_as_it_is_for_every_domain(self, tmp_path: Path, folder: Path, like_mkcert: ca.Pair) -> None:
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        for domain in ("example.test", "dev.mycorp.com"):
            found = ca.load_or_make_ca(folder, [domain], NOW)
            assert found == ca.Authority(folder / "rootCA.pem", like_mkcert)
            server = ca.make_leaf(found.pair, [f"mail.{domain}"], NOW)
            assert handshake(tmp_path, server, like_mkcert.certificate, f"mail.{domain}")
            assert ca.needs_renewal(server.certificate, like_mkcert.certificate, [f"mail.{domain}"], NOW) is None
            assert parsed(server).not_valid_before_utc == parsed(like_mkcert).not_valid_before_utc
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    @needs_openssl
    def test_openssl_in_strict_mode(self, tmp_path: Path, like_mkcert: ca.Pair) -> None:
        server = ca.make_leaf(like_mkcert, ["mail.example.test"], NOW)
        done = openssl(tmp_path, like_mkcert.certificate, server.certificate, "-verify_hostname", "mail.example.test")
        assert done.returncode == 0, done.stderr


def _other_key(folder: Path) -> None:
    _replace(folder / "rootCA-key.pem", ca.make_ca(None, NOW).key)


def _leaf_as_ca(folder: Path) -> None:
    pair = ca.make_leaf(ca.Pair((folder / "rootCA.pem").read_bytes(), (folder / "rootCA-key.pem").read_bytes()), ["localhost"], NOW)
    _replace(folder / "rootCA.pem", pair.certificate)
    _replace(folder / "rootCA-key.pem", pair.key)


def _with_passphrase(folder: Path) -> None:
    key = load_pem_private_key((folder / "rootCA-key.pem").read_bytes(), None)
    _replace(folder / "rootCA-key.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))


def _folder_in_its_place(folder: Path) -> None:
    (folder / "rootCA.pem").unlink()
    (folder / "rootCA.pem").mkdir()


def _replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)
    path.chmod(0o400)


BROKEN: dict[str, tuple[Callable[[Path], object], timedelta, str, str]] = {
    "certificate is nonsense": (lambda f: _replace(f / "rootCA.pem", b"nonsense"), timedelta(), "rootCA.pem", "not the certificate of a CA"),
    "certificate is cut": (lambda f: _replace(f / "rootCA.pem", (f / "rootCA.pem").read_bytes()[:300]), timedelta(), "rootCA.pem", "not the"),
    "certificate is empty": (lambda f: _replace(f / "rootCA.pem", b""), timedelta(), "rootCA.pem", "not the certificate of a CA"),
    "certificate is missing": (lambda f: (f / "rootCA.pem").unlink(), timedelta(), "rootCA.pem", "is missing"),
    "certificate is a server's": (_leaf_as_ca, timedelta(), "rootCA.pem", "no CA's"),
    "certificate is a folder": (_folder_in_its_place, timedelta(), "rootCA.pem", "Is a directory"),
    "key is missing": (lambda f: (f / "rootCA-key.pem").unlink(), timedelta(), "rootCA-key.pem", "is missing"),
    "key is nonsense": (lambda f: _replace(f / "rootCA-key.pem", b"nonsense"), timedelta(), "rootCA-key.pem", "not a private key"),
    "key has a passphrase": (_with_passphrase, timedelta(), "rootCA-key.pem", "passphrase"),
    "key is another's": (_other_key, timedelta(), "rootCA-key.pem", "does not belong to"),
    "key is for all to read": (lambda f: (f / "rootCA-key.pem").chmod(0o444), timedelta(), "rootCA-key.pem", "mode 0444"),
    "expired": (lambda f: None, timedelta(days=3653), "rootCA.pem", "expired on"),
    "clock is behind": (lambda f: None, timedelta(days=-1), "rootCA.pem", "is valid from"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_ca_is_reported_and_left_alone(folder: Path, case: str) -> None:
    damage, later, path, message = BROKEN[case]
    ca.load_or_make_ca(folder, ["example.test"], NOW)
    damage(folder)
    before = {p.name: (p.stat().st_ino, p.stat().st_mode, p.stat().st_mtime_ns) for p in folder.iterdir()}
    with pytest.raises(UsageError) as refused:
        ca.load_or_make_ca(folder, ["example.test"], NOW + later)
    assert str(folder / path) in refused.value.message and message in refused.value.message
    assert refused.value.hint
    assert {p.name: (p.stat().st_ino, p.stat().st_mode, p.stat().st_mtime_ns) for p in folder.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Not a directory") as refused:
        ca.load_or_make_ca(tmp_path / "file" / "ca", ["example.test"], NOW)
    assert "CAROOT" in refused.value.hint


class TestEnvironment:
    @pytest.fixture
    def root(self, folder: Path) -> ca.Authority:
        return ca.load_or_make_ca(folder, ["example.test"], NOW)

    def test_a_variable_that_replaces_names_the_systems_roots_and_ours(self, tmp_path: Path, root: ca.Authority, monkeypatch: pytest.MonkeyPatch) -> None:
        foreign = ca.make_ca(None, NOW)
        (tmp_path / "system.pem").write_bytes(b"# a comment\n" + foreign.certificate * 2)
        monkeypatch.setattr(ca, "_SYSTEM_ROOTS", ("/nowhere", str(tmp_path / "system.pem"), str(tmp_path)))
        found = ca.environment(root.certificate_path)
        bundle = root.certificate_path.parent / "bundle.pem"
        assert {found[name] for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")} == {str(bundle)}
        assert found["NODE_EXTRA_CA_CERTS"] == str(root.certificate_path)
        trusted = bundle.read_bytes()
        assert trusted.count(b"BEGIN CERTIFICATE") == 2 and b"PRIVATE" not in trusted
        assert bundle.stat().st_mode & 0o777 == 0o644
        for signer in (root.pair, foreign):
            assert handshake(tmp_path, ca.make_leaf(signer, ["localhost"], NOW), trusted, "localhost")

    def test_what_the_user_trusts_already_stays_trusted(self, tmp_path: Path, root: ca.Authority) -> None:
        corporate, proxy = ca.make_ca(None, NOW), ca.make_ca(None, NOW)
        (tmp_path / "corporate.pem").write_bytes(corporate.certificate)
        (tmp_path / "proxy.pem").write_bytes(proxy.certificate)
        env = {"SSL_CERT_FILE": str(tmp_path / "corporate.pem"), "NODE_EXTRA_CA_CERTS": str(tmp_path / "proxy.pem"), "CURL_CA_BUNDLE": "/nowhere"}
        found = ca.environment(root.certificate_path, env)
        trusted = Path(found["SSL_CERT_FILE"]).read_bytes()
        for signer in (root.pair, corporate, proxy):
            assert handshake(tmp_path, ca.make_leaf(signer, ["localhost"], NOW), trusted, "localhost")
        assert found["NODE_EXTRA_CA_CERTS"] == found["SSL_CERT_FILE"]

    def test_a_second_time_in_the_same_shell_changes_nothing(self, root: ca.Authority) -> None:
        first = ca.environment(root.certificate_path, {})
        bundle = Path(first["SSL_CERT_FILE"])
        before = (bundle.read_bytes(), bundle.stat().st_ino)
        assert ca.environment(root.certificate_path, first) == first
        assert (bundle.read_bytes(), bundle.stat().st_ino) == before

    @pytest.mark.skipif(not any(map(os.path.isfile, ca._SYSTEM_ROOTS)), reason="this machine has no bundle of roots")
    def test_a_program_that_is_told_so_trusts_both(self, tmp_path: Path, root: ca.Authority) -> None:
        found = ca.environment(root.certificate_path)
        code = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
        env = {k: v for k, v in os.environ.items() if k not in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
        counts = [int(subprocess.check_output([sys.executable, "-c", code], env={**env, **extra}, timeout=30)) for extra in ({}, found)]
        assert counts[1] > 1 and counts[1] >= counts[0]
        context = ssl.create_default_context(cafile=found["SSL_CERT_FILE"])
        assert parsed(root.pair).public_bytes(Encoding.DER) in context.get_ca_certs(binary_form=True)

    def test_the_documentation_names_each_variable_and_each_domain(self, root: ca.Authority) -> None:
        text = (Path(__file__).parent.parent / "docs" / "certificates.md").read_text(encoding="utf-8")
        table = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `") and line.split("`")[1].isupper()}
        assert table == set(ca.environment(root.certificate_path))
        assert [domain for domain in ca.PERMITTED if f"`{domain}`" not in text] == []
        assert f"{ca.LEAF_LIFE.days} days" in text and f"within {ca.RENEW_BEFORE.days} days" in text

    def test_a_missing_ca_is_reported(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="No such file"):
            ca.environment(tmp_path / "rootCA.pem")
