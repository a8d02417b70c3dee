"""The CA in real trust stores: Debian's and NSS databases. Never changes what this machine itself trusts."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from stackctl import ca, trust
from stackctl.errors import EngineError, UsageError

pytestmark = pytest.mark.feature("A3")

NOW = datetime.now(UTC)
DEBIAN = next(store for store in trust.SYSTEM_FOLDERS if "Debian" in store.name)


class Lines(list[str]):
    """Takes the lines of a report."""

    def __call__(self, line: str) -> None:
        self.append(line)


@pytest.fixture
def authority(tmp_path: Path) -> ca.Authority:
    return ca.load_or_make_ca(tmp_path / "ca", ["example.test"], NOW)


@pytest.fixture
def leaf(tmp_path: Path, authority: ca.Authority) -> Path:
    path = tmp_path / "leaf.pem"
    path.write_bytes(ca.make_leaf(authority.pair, ["mail.example.test"], NOW).certificate)
    return path


def trusted_by_the_system(leaf: Path) -> bool:
    """OpenSSL is told nothing about our CA; the folder of hashed links and the one file must agree."""
    options = (["-CApath", "/etc/ssl/certs", "-no-CAfile"], ["-CAfile", str(DEBIAN.bundle), "-no-CApath"])
    (by_folder, by_file) = (subprocess.run(["openssl", "verify", "-no-CAstore", *o, str(leaf)], capture_output=True, timeout=30) for o in options)
    assert by_folder.returncode == by_file.returncode, (by_folder, by_file)
    return by_folder.returncode == 0


def contents() -> tuple[set[str], set[str], set[bytes]]:
    return set(os.listdir("/etc/ssl/certs")), set(os.listdir(DEBIAN.anchors)), set(trust._certificates(DEBIAN.bundle.read_bytes()))


def install_twice_and_uninstall_twice(path: Path, leaf: Path) -> None:
    """Runs in a mount namespace of its own, see below."""
    report, store = Lines(), [found for found in trust.stores(path.parent) if found.name == DEBIAN.name]
    before = contents()
    assert not trusted_by_the_system(leaf) and not trust.is_installed(path, store)

    assert trust.install(path, report, store)
    assert trusted_by_the_system(leaf) and trust.is_installed(path, store)
    assert "now trusts it (install -m 0644" in report[-1] and "update-ca-certificates" in report[-1]
    assert trust.install(path, report, store)
    assert "trusts it already" in report[-1]

    assert trust.uninstall(path, report, store)
    assert not trusted_by_the_system(leaf) and not trust.is_installed(path, store)
    assert "no longer trusts it" in report[-1]
    assert trust.uninstall(path, report, store)
    assert "does not have it" in report[-1]
    assert contents() == before


@pytest.mark.skipif(not (DEBIAN.anchors.is_dir() and shutil.which(DEBIAN.update[0])), reason="this machine has not Debian's store")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change the system's store")
def test_debians_store_is_changed_and_changed_back(tmp_path: Path, authority: ca.Authority, leaf: Path) -> None:
    """The real paths and the real tools, over copies that only the child process sees: even a killed test leaves nothing in the machine's trust."""
    mounts = []
    for number, place in enumerate(("/etc/ssl/certs", str(DEBIAN.anchors))):
        shutil.copytree(place, tmp_path / f"copy{number}", symlinks=True)
        mounts.append(shlex.join(["mount", "--bind", str(tmp_path / f"copy{number}"), place]))
    namespace = ["unshare", "--mount", "--propagation", "private", "sh", "-ec"]
    if subprocess.run([*namespace, " && ".join(mounts)], capture_output=True, timeout=30).returncode != 0:
        pytest.skip("no mount namespace to be had here (a container without CAP_SYS_ADMIN?)")
    outside = contents()
    code = "import sys, pathlib, test_trust; test_trust.install_twice_and_uninstall_twice(*map(pathlib.Path, sys.argv[1:]))"
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(trust.__file__).parent.parent)])
    script = " && ".join([*mounts, "exec " + shlex.join([sys.executable, "-c", code, str(authority.certificate_path), str(leaf)])])
    done = subprocess.run([*namespace, script], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert contents() == outside


class TestSomebodyElses:
    """A store in a folder of ours, with Debian's own tool where it is installed."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> trust.SystemFolder:
        if not shutil.which("update-ca-certificates"):
            pytest.skip("update-ca-certificates is not installed")
        for name in ("anchors", "etc", "hooks", "shipped"):
            (tmp_path / name).mkdir()
        (tmp_path / "conf").write_text("# none\n")
        update = ["update-ca-certificates", "--certsconf", str(tmp_path / "conf"), "--certsdir", str(tmp_path / "shipped")]
        update += ["--localcertsdir", str(tmp_path / "anchors"), "--etccertsdir", str(tmp_path / "etc"), "--hooksdir", str(tmp_path / "hooks")]
        bundle = tmp_path / "etc" / "ca-certificates.crt"
        return trust.SystemFolder("a store", tmp_path / "anchors", ".crt", bundle, tuple(update), (*update, "--fresh"), needs_root=False)

    def test_uninstall_takes_only_ours(self, tmp_path: Path, authority: ca.Authority, store: trust.SystemFolder) -> None:
        other = ca.load_or_make_ca(tmp_path / "other", ["example.test"], NOW)
        report = Lines()
        assert trust.install(authority.certificate_path, report, [store]) and trust.install(other.certificate_path, report, [store])
        assert trust.uninstall(authority.certificate_path, report, [store])
        assert trust.is_installed(other.certificate_path, [store]) and not trust.is_installed(authority.certificate_path, [store])
        assert len(os.listdir(store.anchors)) == 1

    def test_what_another_program_put_there_stays(self, authority: ca.Authority, store: trust.SystemFolder) -> None:
        shutil.copy(authority.certificate_path, store.anchors / "mkcert_development_CA_1.crt")
        subprocess.run(store.update, check=True, capture_output=True, timeout=60)
        report = Lines()
        assert trust.install(authority.certificate_path, report, [store])
        assert "trusts it already" in report[-1]
        assert not trust.uninstall(authority.certificate_path, report, [store])
        assert "still trusts it" in report[-1]
        assert os.listdir(store.anchors) == ["mkcert_development_CA_1.crt"]

    def test_without_root_the_command_is_shown_and_nothing_run(
        self, authority: ca.Authority, store: trust.SystemFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        report = Lines()
        system = trust.SystemFolder(store.name, store.anchors, ".crt", store.bundle, store.update, store.update_after_removal, needs_root=True)
        assert not trust.install(authority.certificate_path, report, [system])
        assert "needs root; run:  sudo install -m 0644" in report[0] and "&& sudo update-ca-certificates" in report[0]
        assert os.listdir(store.anchors) == []

    def test_a_tool_that_fails_does_not_keep_the_next_store_from_its_turn(self, authority: ca.Authority, store: trust.SystemFolder) -> None:
        broken = trust.SystemFolder("a broken store", store.anchors, ".pem", store.anchors / "none", ("false",), ("false",), needs_root=False)
        report = Lines()
        assert not trust.install(authority.certificate_path, report, [broken, store])
        assert "a broken store: false: exit status 1" in report[0] and "now trusts it" in report[1]


@pytest.mark.skipif(not shutil.which("certutil"), reason="certutil is not installed (package libnss3-tools)")
class TestNss:
    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        for place in (".pki/nssdb", ".mozilla/firefox/abc.default", ".thunderbird/def.default"):
            folder = tmp_path / "home" / place
            folder.mkdir(parents=True)
            subprocess.run(["certutil", "-N", "-d", f"sql:{folder}", "--empty-password"], check=True, timeout=30)
        (tmp_path / "home" / ".mozilla/firefox/Crash Reports").mkdir()
        return tmp_path / "home"

    @pytest.fixture
    def databases(self, home: Path) -> list[trust.Store]:
        return [store for store in trust.stores(home) if isinstance(store, trust.NssDatabase)]

    def trusted(self, store: trust.Store, leaf: Path) -> bool:
        assert isinstance(store, trust.NssDatabase)
        place = ["-d", f"sql:{store.folder}"]
        subprocess.run(["certutil", "-A", *place, "-n", "leaf", "-t", ",,", "-i", str(leaf)], check=True, timeout=30)
        try:  # -u V: as the certificate of a TLS server
            return subprocess.run(["certutil", "-V", *place, "-n", "leaf", "-u", "V", "-e"], capture_output=True, timeout=30).returncode == 0
        finally:
            subprocess.run(["certutil", "-D", *place, "-n", "leaf"], check=True, timeout=30)

    def test_every_database_is_found(self, home: Path, databases: list[trust.Store]) -> None:
        assert [store.name for store in databases] == [
            f"NSS database {home / place}" for place in (".pki/nssdb", ".mozilla/firefox/abc.default", ".thunderbird/def.default")
        ]

    def test_install_twice_and_uninstall_twice(self, authority: ca.Authority, leaf: Path, databases: list[trust.Store]) -> None:
        path, report = authority.certificate_path, Lines()
        assert not any(trust.status(path, databases).values())
        assert not any(self.trusted(store, leaf) for store in databases)
        assert trust.install(path, report, databases) and trust.install(path, report, databases)
        assert trust.is_installed(path, databases)
        assert all(self.trusted(store, leaf) for store in databases)
        assert ["now trusts it" in line for line in report] == [True] * 3 + [False] * 3
        assert trust.uninstall(path, report, databases) and trust.uninstall(path, report, databases)
        assert not any(trust.status(path, databases).values())
        assert not any(self.trusted(store, leaf) for store in databases)

    def test_the_browser_refuses_a_name_outside_the_constraints(self, tmp_path: Path, authority: ca.Authority, databases: list[trust.Store]) -> None:
        pair = authority.pair
        issuer, key = x509.load_pem_x509_certificate(pair.certificate), ca._key(pair.key)
        foreign = tmp_path / "foreign.pem"
        foreign.write_bytes(ca._sign(issuer, key, ["mail.example.edu"], NOW).certificate)
        trust.install(authority.certificate_path, lambda line: None, databases)
        assert not self.trusted(databases[0], foreign)

    def test_uninstall_takes_only_ours(self, tmp_path: Path, authority: ca.Authority, databases: list[trust.Store]) -> None:
        other = ca.load_or_make_ca(tmp_path / "other", ["example.test"], NOW)
        for each in (authority, other):
            assert trust.install(each.certificate_path, lambda line: None, databases)
        assert trust.uninstall(authority.certificate_path, lambda line: None, databases)
        assert trust.is_installed(other.certificate_path, databases)

    def test_a_certificate_that_is_there_without_trust_gets_it(self, authority: ca.Authority, leaf: Path, databases: list[trust.Store]) -> None:
        store = databases[0]
        assert isinstance(store, trust.NssDatabase)
        argv = ["certutil", "-A", "-d", f"sql:{store.folder}", "-n", "seen before", "-t", ",,", "-i", str(authority.certificate_path)]
        subprocess.run(argv, check=True, timeout=30)
        assert not trust.is_installed(authority.certificate_path, [store])
        assert trust.install(authority.certificate_path, lambda line: None, [store])
        assert trust.is_installed(authority.certificate_path, [store]) and self.trusted(store, leaf)


def test_without_certutil_the_package_is_named(authority: ca.Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    report = Lines()
    store = trust.NssDatabase(tmp_path)
    assert not trust.install(authority.certificate_path, report, [store]) and not trust.is_installed(authority.certificate_path, [store])
    assert "libnss3-tools" in report[0]


def test_no_store_at_all_is_said(authority: ca.Authority) -> None:
    report = Lines()
    assert not trust.install(authority.certificate_path, report, []) and not trust.is_installed(authority.certificate_path, [])
    assert "ca env" in report[0]


def test_a_file_that_holds_more_than_the_certificate_is_refused(tmp_path: Path, authority: ca.Authority) -> None:
    path = tmp_path / "both.pem"
    for content in (authority.pair.certificate + authority.pair.key, authority.pair.certificate * 2, b""):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="one certificate in PEM"):
            trust.install(path, lambda line: None, [])
    with pytest.raises(UsageError, match="No such file"):
        trust.is_installed(tmp_path / "none.pem")


def test_macos_gets_the_commands_of_its_manual(authority: ca.Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = trust._read(authority.certificate_path)
    (add,) = trust.Keychain().add(certificate)
    assert add[:5] == ["security", "add-trusted-cert", "-d", "-r", "trustRoot"] and add[-1] == str(authority.certificate_path)
    with pytest.raises(EngineError, match="security: command not found"):
        monkeypatch.setenv("PATH", "/nowhere")
        trust.Keychain().has(certificate)
