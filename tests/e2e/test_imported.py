"""An imported store: what a configuration says becomes a stack that runs, in the other version, and mail gets to the users that it names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import NAME
from program import Program

pytestmark = [pytest.mark.e2e, pytest.mark.feature("D4")]
INPUTS = Path(__file__).parents[1] / "imports" / "dovecot"
# A case for each version: written for 2.4 and for 2.3, with users in the same domain.
USERS = {"02-virtual-users": "ann@shop.test", "12-on-2.4": "kim@shop.test"}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One stack of the stores and users that the command makes of both."""
    program = Program.below(tmp_path_factory.mktemp("imported"), f"{NAME}-imported", STACKCTL_NAME=f"{NAME}-imported")
    whole: dict[str, Any] = {"stores": [], "users": [], "limits": {"auth_failure_delay": 0}}
    for case in USERS:
        program("import", "dovecot", str(INPUTS / case), "--output", f"{case}.yaml")
        made = yaml.safe_load((program.work / f"{case}.yaml").read_text(encoding="utf-8"))
        whole["domain"] = made["domain"]
        whole["domains"] = [*whole.get("domains", []), *made.get("domains", [])]
        whole["users"] += made["users"]
        whole["stores"].append({**made["stores"][0], "name": f"s{len(whole['stores'])}"})
    program.write(yaml.safe_dump(whole))
    with program.up():
        yield program


@pytest.mark.parametrize("user", USERS.values())
def test_mail_gets_to_a_user_that_the_configuration_named(here: Program, user: str) -> None:
    """By SMTP and the MTA into each store, and out again by IMAP with the user's password; a user that it does not name has no mailbox."""
    here("send", "--to", user, "--subject", f"for {user}", "--body", "imported")
    for store in ("s0", "s1"):
        here("wait", user, "--subject", f"for {user}", "--store", store, "--timeout", "30")
        assert "imported" in here("inbox", user, "--show", "-1", "--store", store).out
    here("send", "--to", "nobody@shop.test", "--subject", "no", code=1)


def test_what_was_handed_through_is_in_effect_in_the_other_version_s_words(here: Program) -> None:
    newer, older = (here("config", "show", store).out for store in ("s0", "s1"))
    assert "restart_request_count = unlimited" in newer and "auth_cache_size = 10 M" in newer.replace("10M", "10 M")
    assert "quota_rule3 = Trash:storage=+50M" in older and "zlib_save = zstd" in older
