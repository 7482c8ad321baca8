"""Each promise about crashes is kept, and a bug that breaks it is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recovery_claims import CLAIMS, Claim

NAMES = [claim.scenario.__name__ for claim in CLAIMS]
BROKEN = [claim.bug.__name__ for claim in CLAIMS]


@pytest.mark.parametrize("claim", CLAIMS, ids=NAMES)
def test_the_promise_is_kept(claim: Claim) -> None:
    claim.scenario()


@pytest.mark.parametrize("claim", CLAIMS, ids=BROKEN)
def test_a_bug_that_breaks_it_is_seen(claim: Claim) -> None:
    with pytest.MonkeyPatch.context() as patch:
        claim.bug(patch)
        with pytest.raises((Exception, pytest.fail.Exception)) as seen:
            claim.scenario()
    # A bug that is wrong itself would be seen in any scenario.
    assert not isinstance(seen.value, AttributeError | NameError | TypeError)


def test_the_page_in_the_documentation_has_every_promise() -> None:
    page = " ".join((Path(__file__).parent.parent / "docs" / "recovery.md").read_text().split())
    missing = [claim.sentence for claim in CLAIMS if claim.sentence not in page]
    assert not missing
