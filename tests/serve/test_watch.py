"""A watch on real files: what counts as a change, and when it is seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import sse_keepalive_proxy.serve.watch as watching
from sse_keepalive_proxy.serve.watch import Watch


def file_with(folder: Path, text: str, name: str = "config.yaml") -> Path:
    """The clock of the file system has moved since: a later change has another time."""
    path, clock = folder / name, folder / "clock"
    path.write_text(text)
    while not clock.exists() or clock.stat().st_ctime_ns == path.stat().st_ctime_ns:
        clock.write_text("")
    return path


def mounted(folder: Path, **files: str) -> Path:
    """A folder as kubelet mounts a ConfigMap: each file a link through `..data` into a folder of its time."""
    folder.mkdir()
    published(folder, "..2026_01", **files)
    for name in files:
        (folder / name).symlink_to(Path("..data") / name)
    return folder


def published(folder: Path, name: str, **files: str) -> None:
    """New content for it: a new folder is filled, a link to it is renamed over `..data`."""
    fresh = folder / name
    fresh.mkdir()
    for file, text in files.items():
        (fresh / file).write_text(text)
    (folder / "..data_tmp").symlink_to(name)
    (folder / "..data_tmp").rename(folder / "..data")


def polls(watch: Watch, count: int = 4) -> list[bool]:
    return [watch.poll() for _ in range(count)]


# What is a change.


def test_a_write_into_the_file_is_seen_once(tmp_path: Path) -> None:
    path = file_with(tmp_path, "one")
    watch = Watch([path])
    assert polls(watch) == [False] * 4
    path.write_text("other")
    assert polls(watch) == [False, True, False, False]


def test_a_rename_over_the_file_is_seen_though_size_and_time_are_the_same(tmp_path: Path) -> None:
    path = file_with(tmp_path, "one")
    watch = Watch([path])
    fresh = file_with(tmp_path, "two", ".config.yaml.swp")
    os.utime(fresh, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    fresh.rename(path)
    assert polls(watch) == [False, True, False, False]


def test_a_write_that_keeps_size_and_time_is_seen(tmp_path: Path) -> None:
    path = file_with(tmp_path, "one")
    watch, times = Watch([path]), path.stat()
    path.write_text("two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert polls(watch) == [False, True, False, False]


def test_the_swap_of_a_configmap_is_seen_though_the_watched_link_stays_what_it_was(tmp_path: Path) -> None:
    folder = mounted(tmp_path / "etc", config="one")
    watch = Watch([folder / "config"])
    published(folder, "..2026_02", config="two")
    assert polls(watch) == [False, True, False, False]
    published(folder, "..2026_03", config="three")
    assert polls(watch) == [False, True, False, False]


def test_a_swap_to_the_same_content_is_no_change(tmp_path: Path) -> None:
    folder = mounted(tmp_path / "etc", config="one")
    watch = Watch([folder / "config"])
    published(folder, "..2026_02", config="one")
    assert polls(watch) == [False] * 4


def test_a_touch_is_no_change(tmp_path: Path) -> None:
    path = file_with(tmp_path, "one")
    watch = Watch([path])
    os.utime(path, (1, 1))
    assert polls(watch) == [False] * 4
    path.write_text("two")
    assert polls(watch) == [False, True, False, False]


@pytest.mark.parametrize("which", ["config.yaml", "key.pem"])
def test_each_of_several_files_is_looked_at(which: str, tmp_path: Path) -> None:
    files = [file_with(tmp_path, "one", name) for name in ("config.yaml", "key.pem")]
    watch = Watch(files)
    (tmp_path / which).write_text("two")
    assert polls(watch) == [False, True, False, False]


# When it is seen.


def test_a_file_that_is_still_being_written_is_waited_for(tmp_path: Path) -> None:
    path = file_with(tmp_path, "one")
    watch = Watch([path])
    with path.open("w") as writer:
        for part in ("half ", "of ", "it"):
            writer.write(part)
            writer.flush()
            assert not watch.poll()
    assert polls(watch) == [True, False, False, False]


def test_content_that_has_come_back_before_anybody_looked_twice_is_no_change(tmp_path: Path) -> None:
    path = file_with(tmp_path, "one")
    watch = Watch([path])
    path.write_text("two")
    assert not watch.poll()
    path.write_text("one")
    assert polls(watch) == [False] * 4


def test_what_changes_while_it_is_read_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, digest = file_with(tmp_path, "one"), watching._digest
    watch = Watch([path])
    path.write_text("half")
    assert not watch.poll()

    def slow(of: Path) -> bytes | None:
        found = digest(of)
        path.write_text("half and the rest")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(watching, "_digest", slow)
        assert not watch.poll()
    assert polls(watch) == [False, True, False, False]


def test_a_file_that_looks_as_it_did_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch([file_with(tmp_path, "one")])

    def read(_: Path) -> bytes | None:
        raise AssertionError("nothing has changed")

    monkeypatch.setattr(watching, "_digest", read)
    assert polls(watch) == [False] * 4


# What is missing, or no ordinary file.


def test_a_file_that_vanishes_is_a_change_and_so_is_its_return(tmp_path: Path) -> None:
    path = file_with(tmp_path, "one")
    watch = Watch([path])
    path.unlink()
    assert polls(watch) == [False, True, False, False]
    path.write_text("one")
    assert polls(watch) == [False, True, False, False]


def test_a_gap_between_unlink_and_a_new_file_is_no_change(tmp_path: Path) -> None:
    path = file_with(tmp_path, "one")
    watch = Watch([path])
    path.unlink()
    assert not watch.poll()
    path.write_text("one")
    assert polls(watch) == [False] * 4


def test_a_pipe_is_as_good_as_missing_and_never_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert polls(Watch([pipe])) == [False] * 4


@pytest.mark.parametrize("end", ["loop", "folder", "nowhere"])
def test_what_can_never_be_read_is_no_change_and_no_error(end: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    assert polls(Watch([tmp_path / end])) == [False] * 4


# What is known.


def test_newly_followed_files_are_recorded_and_others_are_dropped(tmp_path: Path) -> None:
    old, new = file_with(tmp_path, "one", "old"), file_with(tmp_path, "one", "new")
    watch = Watch([old])
    new.write_text("two")
    watch.follow([new])
    old.write_text("two")
    assert polls(watch) == [False] * 4
    new.write_text("three")
    assert polls(watch) == [False, True, False, False]


def test_a_file_that_stays_followed_keeps_an_unseen_change(tmp_path: Path) -> None:
    path = file_with(tmp_path, "one")
    watch = Watch([path])
    path.write_text("two")
    watch.follow([path, tmp_path / "more"])
    assert polls(watch) == [False, True, False, False]


def test_what_is_taken_note_of_is_no_change_any_more(tmp_path: Path) -> None:
    path = file_with(tmp_path, "one")
    watch = Watch([path])
    path.write_text("two")
    watch.take_note()
    assert polls(watch) == [False] * 4


def test_what_is_known_of_the_files_changes_with_what_is_in_them(tmp_path: Path) -> None:
    path, gone = file_with(tmp_path, "one"), tmp_path / "gone"
    watch = Watch([path, gone])
    before = watch.contents
    assert (set(before), before[gone]) == ({path, gone}, None)
    path.write_text("other")
    assert watch.contents == before
    watch.take_note()
    assert watch.contents[path] not in (None, before[path])
    path.write_text("one")
    watch.take_note()
    assert watch.contents == before
