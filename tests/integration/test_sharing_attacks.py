"""Nobody gets what upstream has sent to another credential: every attack of `sharing_attacks.py`, played."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.sharing_attacks import ATTACKS, Attack, Mode, markdown, staged
from tests.support.running import on_each_loop

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "sharing-attacks.md"
CASES = [
    pytest.param(attack, mode, id=f"{attack.name} ({mode})") for attack in ATTACKS for mode in attack.modes
]


def test_the_page_is_written_from_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run `make docs`"


@pytest.mark.parametrize(("attack", "mode"), CASES)
@on_each_loop
async def test_an_attack_gets_nothing_of_another_credential(
    attack: Attack, mode: Mode, tmp_path: Path
) -> None:
    async with staged(mode, tmp_path, attack) as scene:
        await attack.play(scene)
