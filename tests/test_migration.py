"""A store's own configuration in another version's words and as a stack.yaml: one folder a case, with what comes out and what does not."""

from __future__ import annotations

import json
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from conftest import NAME

from stackctl import engine, images, preview
from stackctl.backends import all_backends
from stackctl.cli.app import run
from stackctl.errors import UsageError
from stackctl.known import names
from stackctl.migration import Migrated, migrate
from stackctl.model import Debian
from stackctl.render import File
from stackctl.resource import families
from stackctl.rewriting import Names, recipe
from stackctl.sections import Reader, Section, Setting, parsed, written

pytestmark = pytest.mark.feature("D4", "B3")
HERE = Path(__file__).parent / "imports"
CASES = sorted(path.relative_to(HERE).as_posix() for family in families() for path in (HERE / family).iterdir() if not (path / "expected-refusal").exists())
TABLES = {backend.name: table for backend in all_backends().values() if (table := recipe(backend))}


def made_of(case: str) -> Migrated:
    return migrate(case.partition("/")[0], HERE / case)


def target(case: str) -> str:
    """The folder of the version that a case is written for."""
    version = made_of(case).target
    return next(name for name in TABLES if all_backends()[name].version == version)


def settings(section: Section) -> Iterator[Setting]:
    for one in section.content:
        if isinstance(one, Setting):
            yield one
        else:
            yield from settings(one)


@pytest.mark.parametrize("case", CASES)
def test_a_configuration_is_written_for_the_other_version_and_as_a_stack(case: str, request: pytest.FixtureRequest) -> None:
    made = made_of(case)
    told = [f"{one.place}: {one.before}: {one.told}" for one in made.changes]
    told += [f"{one.place}: {one.what}: not in version {made.target}: {one.why}" for one in made.lost]
    told += [f"{one.place}: {one.what}: not in stack.yaml: {one.why}" for one in made.left_out]
    for name, text in {"expected.conf": made.text, "expected.yaml": made.stack, "expected-report": "\n".join(told) + "\n"}.items():
        path = HERE / case / name
        if request.config.getoption("--update-golden", default=False):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{case}/{name}: `--update-golden`, then read the difference"


@pytest.mark.parametrize("case", CASES)
def test_every_setting_is_answered_for_by_its_line(case: str) -> None:
    """Each setting of each file is as it was, in other words or lost; a place names a line, and no password is shown."""
    made = made_of(case)
    report = (HERE / case / "expected-report").read_text(encoding="utf-8")
    told = {one.place for one in made.changes} | {one.place for one in made.lost}

    def look(section: Section) -> None:
        for one in section.content:
            if isinstance(one, Section):
                if one.place not in told:
                    look(one)
            else:  # the driver is in the name of its section
                same = f"{one.name} = {one.value}".strip() in made.text
                assert same or one.place in told or one.name == "driver", f"{one.place}: {one.name} = {one.value}"

    look(Reader(HERE / case / "dovecot.conf").read())
    for place in re.findall(r"^([\w./-]+:\d+): ", report, re.MULTILINE):
        file, _, number = place.partition(":")
        assert (HERE / case / file).read_text(encoding="utf-8").splitlines()[int(number) - 1].strip(), place
    assert "not-a-real-password" not in report


# --- The real servers


@pytest.fixture(scope="module")
def tags() -> dict[str, str]:
    return images.build([all_backends()[name] for name in TABLES], Debian())


def refused(tag: str, files: Mapping[str, str]) -> str:
    """What the real server says of those configurations that it does not accept."""
    script = 'for f in /etc/stackctl/*.conf; do said=$(doveconf -n -c $f 2>&1 >/dev/null) || echo "$f: $said"; done'
    given = {name: File(text.encode(), 0o644, (0, 0), "restart") for name, text in files.items()}
    return engine.try_out(tag, given, ["/bin/sh", "-c", script], NAME)[1]


@pytest.mark.e2e
@pytest.mark.parametrize("version", TABLES)
def test_the_real_server_accepts_what_is_written(version: str, tags: Mapping[str, str]) -> None:
    chosen = {case.replace("/", "-") + ".conf": (HERE / case / "expected.conf").read_text(encoding="utf-8") for case in CASES if target(case) == version}
    assert len(chosen) > 1 and not refused(tags[version], chosen)
    other = next(name for name in TABLES if name != version)
    assert set(re.findall(r"^/etc/stackctl/(\S+): ", refused(tags[other], chosen), re.MULTILINE)) == set(chosen), "the version that it was written from takes none"


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("case", "user", "home"),
    [("dovecot/02-virtual-users", "ann@shop.test", "/srv/vmail/shop.test/ann"), ("dovecot/12-on-2.4", "kim@shop.test", "/srv/mail/shop.test/kim")],
)
def test_the_real_server_runs_with_what_is_written_and_logs_a_user_in(case: str, user: str, home: str, tags: Mapping[str, str]) -> None:
    """The whole configuration, but for the certificate and where files are, which no such machine has."""
    text = (HERE / case / "expected.conf").read_text(encoding="utf-8").replace("/etc/dovecot/", "/etc/stackctl/")
    text = re.sub(r"(?m)^(log_path|ssl|ssl_server_cert_file|ssl_server_key_file|ssl_cert|ssl_key) = .*\n", "", text)
    text += "ssl = no\nlog_path = /dev/stderr\nauth_failure_delay = 0\n"
    script = "mkdir -p /var/spool/postfix/private; cd /etc/stackctl && dovecot -c $PWD/dovecot.conf && doveadm -c $PWD/dovecot.conf auth test $0 right; "
    script += "doveadm -c $PWD/dovecot.conf auth test $0 wrong; doveadm -c $PWD/dovecot.conf user $0"
    files = {"dovecot.conf": text, "users": f"{user}:{{PLAIN}}right::::::\n", "masters": ""}
    given = {name: File(content.encode(), 0o644, (0, 0), "restart") for name, content in files.items()}
    _, said = engine.try_out(tags[target(case)], given, ["/bin/sh", "-c", script, user], NAME)
    assert f"passdb: {user} auth succeeded" in said and f"passdb: {user} auth failed" in said, said
    assert re.search(rf"(?m)^home\s+{home}$", said), said


@pytest.mark.e2e
@pytest.mark.parametrize("version", TABLES)
def test_the_example_of_the_package_is_written_for_the_other_version(version: str, tags: Mapping[str, str], tmp_path: Path) -> None:
    """As it is, and with every setting that it has as a comment: what the package explains has an answer."""
    script = "cd /usr/share/dovecot && for f in $(find . -type f -name '*conf*' -o -name '*.protocol'); do sed \"s|^|$f:|\" $f; done"
    status, text = engine.try_out(tags[version], {}, ["/bin/sh", "-c", script], NAME)
    assert status == 0
    files: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, content = line.partition(":")
        files.setdefault(name, []).append(content)
    other = next(name for name in TABLES if name != version)
    results = {}
    for way in ("plain", "uncommented"):
        for name, lines in files.items():
            path = tmp_path / way / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if way == "uncommented":  # a setting in the place where it stands, and not one of a section that is a comment
                lines = [re.sub(r"^#(?=[a-z]\w+ = [^\\{]*$)", "", line) for line in lines]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        made = migrate(all_backends()[version].family, tmp_path / way)
        assert made.changes and made.kept
        results[f"{way}.conf"] = made.text
    assert len(made.changes) > 20 and len(made.lost) < 40
    assert not refused(tags[other], results)


@pytest.mark.e2e
@pytest.mark.parametrize("version", TABLES)
def test_the_names_are_those_of_the_real_server(version: str, tags: Mapping[str, str]) -> None:
    """Every setting that the server lists is known, so that none of its own is taken for a slip."""
    table = TABLES[version]
    script = "printf '%s' \"$1\" >/tmp/c; doveconf -d -c /tmp/c | sed -n 's/^\\([a-z_0-9]*\\) = .*/\\1/p'"
    status, text = engine.try_out(tags[version], {}, ["/bin/sh", "-c", script, "x", table.first], NAME)
    found = set(text.split())
    assert status == 0 and len(found) > 200
    assert not found - names(all_backends()[version].folder / table.names)


@pytest.mark.e2e
def test_the_real_server_is_content_with_the_stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store for each case in one stack: its own checker looks at what is handed through."""
    monkeypatch.setenv("STACKCTL_STATE", str(tmp_path / "state"))
    stores = []
    for number, case in enumerate(CASES):
        raw = yaml.safe_load((HERE / case / "expected.yaml").read_text(encoding="utf-8"))
        stores.append({"name": f"s{number}", **raw["stores"][0], **({"auth": raw["auth"]} if "auth" in raw else {})})
    path = tmp_path / "stack.yaml"
    path.write_text(yaml.safe_dump({"name": f"{NAME}-migrated", "stores": stores}), encoding="utf-8")
    for service, (content, said) in preview.check(path).items():
        assert content, f"{service} {CASES[int(service[1:])] if service[1:].isdigit() else ''}: {said}"


# --- The command


def test_the_command_writes_both_files_and_tells_what_became_of_each_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(HERE / "dovecot/03-postgres", tmp_path / "in")
    assert run(["import", "dovecot", str(folder), "-o", "new.yaml", "--config", "new.conf", "--name", "shop"]) == 0
    out = capsys.readouterr().out
    assert "dovecot.conf:2: mail_location = maildir:~/Maildir: becomes mail_driver = maildir; mail_path = ~/Maildir" in out
    assert "not in version 2.4: the fields" in out and "new.yaml and new.conf written. From 2.3 to 2.4:" in out
    assert "not-a-real-password" not in out and "not-a-real-password" in Path("new.conf").read_text()
    assert stat.S_IMODE(Path("new.conf").stat().st_mode) == 0o600 and Path("new.yaml").read_text().startswith("name: shop\n")
    assert run(["import", "dovecot", "new.conf", "--to", "2.4", "--config", "-", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["from"] == told["to"] == "2.4" and told["changed"] == told["lost"] == told["written"] == [] and "passdb sql {" in told["text"]
    assert not Path("stack.yaml").exists()
    assert run(["import", "dovecot", str(folder), "-o", "new.yaml"]) == 2 and "is there already" in capsys.readouterr().err
    assert run(["import", "dovecot", str(folder), "-o", "x", "-c", "x"]) == 2 and run(["import", "dovecot", str(folder), "--to", "2.5"]) == 2
    assert not Path("x").exists()


def test_a_broken_configuration_is_refused_with_every_problem_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = HERE / "dovecot/14-broken"
    assert run(["import", "dovecot", str(folder), "-c", "new.conf"]) == 2
    said = capsys.readouterr().err.replace(f"{folder}/", "")
    path = folder / "expected-refusal"
    if request.config.getoption("--update-golden", default=False):
        path.write_text(said, encoding="utf-8")
    assert said == path.read_text(encoding="utf-8")
    assert run(["import", "dovecot", str(tmp_path)]) == 2 and "without dovecot.conf" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


# --- Reading


def read(text: str, folder: Path) -> tuple[Section, list[str]]:
    (folder / "x.conf").write_text(text, encoding="utf-8")
    reader = Reader(folder / "x.conf")
    return reader.read(), [str(one) for one in reader.problems]


def test_lines_quotes_comments_and_continuations(tmp_path: Path) -> None:
    found, problems = read('a = 1 # no\nb = "# \\"yes\\" "\n c =x \\\n   y\n#d = 1\ne =\ns "l m" {\n  f = %{a} </x\n}\n', tmp_path)
    assert not problems and [(one.name, one.value, one.place) for one in settings(found)] == [
        ("a", "1", "x.conf:1"),
        ("b", '# "yes" ', "x.conf:2"),
        ("c", "x y", "x.conf:3"),
        ("e", "", "x.conf:6"),
        ("f", "%{a} </x", "x.conf:8"),
    ]
    assert next(found.sections("s")).label == "l m"
    again, problems = read(written(found.content), tmp_path)
    assert not problems and [(one.name, one.value) for one in settings(again)] == [(one.name, one.value) for one in settings(found)]


def test_includes_are_read_where_they_stand_and_from_the_tree_that_was_copied(tmp_path: Path) -> None:
    folder = tmp_path / "etc" / "store"
    (folder / "d").mkdir(parents=True)
    (folder / "d" / "2.conf").write_text("b = 2\n")
    (folder / "d" / "1.conf").write_text("b = 1\n!include /etc/store/one.ext\n")
    (folder / "one.ext").write_text("c = 1\n")
    found, problems = read("a = 1\n!include d/*.conf\n!include_try none/*.conf\n!include none/*.conf\nz = 1\n", folder)
    assert [one.place for one in settings(found)] == ["x.conf:1", "d/1.conf:1", "one.ext:1", "d/2.conf:1", "x.conf:5"]
    assert problems == ["x.conf:4: none/*.conf is not there (copy it with the rest of the configuration)"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a {\n" * 30, "is never closed"),
        ("x\0", "no text file"),
        (f"a = {'x' * 20_000}", "more than 16384"),
        ("!include " + "x" * 5000, "is not there"),
        ("= 1", "neither"),
        *((f"!include {odd}", "is not there") for odd in ("/", "/*", "[", "/" + "x" * 5000, "/" + "x" * 5000 + "/*.conf", "/..", '""')),
    ],
)
def test_what_cannot_be_read_is_a_problem(text: str, problem: str, tmp_path: Path) -> None:
    assert problem in "\n".join(read(text, tmp_path)[1])


def test_mysql_becomes_settings_of_its_own(tmp_path: Path) -> None:
    """The images have no MySQL, so no server looks at this one."""
    (tmp_path / "sql.ext").write_text("driver = mysql\nconnect = host=/run/mysqld.sock user=a password=b dbname=c\n")
    (tmp_path / "dovecot.conf").write_text("passdb {\n  driver = sql\n  args = /etc/dovecot/sql.ext\n}\n")
    made = migrate("dovecot", tmp_path)
    assert "sql_driver = mysql\nmysql /run/mysqld.sock {\n  user = a\n  password = b\n  dbname = c\n}\n" in made.text


def test_no_secret_is_in_a_report(tmp_path: Path) -> None:
    lines = ["ssl_key = -----BEGIN x s3cret", "doveadm_password = s3cret", "imapc_password = s3cret", "auth_policy_server_api_header = X: s3cret"]
    lines += ["passdb {", "driver = static", "args = proxy=y pass=s3cret", "override_fields = password=s3cret", "}"]
    (tmp_path / "dovecot.conf").write_text("\n".join(lines))
    made = migrate("dovecot", tmp_path)
    assert made.secret and made.text.count("s3cret") == 5
    assert "s3cret" not in repr((made.changes, made.lost, made.left_out)) and "(not shown)" in repr(made.changes)


@pytest.mark.parametrize("version", TABLES)
def test_every_template_of_a_table_is_a_configuration_and_writes_names_that_there_are(version: str) -> None:
    table = TABLES[version]
    backend = all_backends()[version]
    assert yaml.safe_load((backend.folder / "conversion.yaml").read_text(encoding="utf-8")), "without libyaml too"
    there = Names(backend, table)
    for key, rule in table.rules.items():
        for case in rule if isinstance(rule, tuple) else ():
            for part in (case, *case.each):
                for node in parsed(part.write, key):
                    if isinstance(node, Section) and "$" not in node.kind:
                        assert there.has_section(node.kind, ()), f"{key}: {node.kind}"
    for text in table.defaults.values():
        assert parsed(text, "defaults")


def test_a_version_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "dovecot.conf").write_text("ssl = no\n")
    with pytest.raises(UsageError, match="no version 9"):
        migrate("dovecot", tmp_path, "9")
