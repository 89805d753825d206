"""The command line: measure, and write table, plot and raw figures."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bench import alone, report
from bench.builds import InstallFailed, install
from bench.comparison import compare, side_by_side
from bench.load import Load, LoadFailed, build
from bench.machine import ROOT, choose_cores, describe
from bench.peers import BASE, PEERS, PROXY, Stage, find, version_of
from bench.processes import StartFailed, origin_port
from bench.report import Results

__all__ = ["main"]

_TESTS = (*side_by_side(quick=False), *alone.ALONE)
_SKELETON = f"# Performance\n\n{report.BEGIN}\n{report.END}\n"


def main(words: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 where this proxy had a fault or could not be measured, or nothing could."""
    args = _arguments(words)
    cores = choose_cores()
    machine = describe(args.checkout, cores)
    os.sched_setaffinity(0, {cores.load})  # this process is no part of what is measured
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            built = build(Path(folder))
            pythons = (
                install(args.checkout, Path(folder), _say) if args.install else {PROXY: Path(sys.executable)}
            )
        except (LoadFailed, InstallFailed) as error:
            _say(str(error))
            return 1
        programs, missing = _programs(args.peers, built["relay"])
        stage = Stage(Path(folder), origin_port(), cores, args.checkout, programs, pythons)
        results = Results(
            command=_command(args),
            date=time.strftime("%Y-%m-%d", time.gmtime()),
            machine=machine,
            versions={name: version_of(name, path) for name, path in programs.items() if name != "limit"},
            left_out=missing,
        )
        _measure(args, stage, Load(built["load"], stage.origin, cores.load), results)
    _write(args, results)
    return 1 if results.own_faults or _not_measured(results, pythons) else 0


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=_count, default=4, help="pairs of each proxy and nginx (4)")
    parser.add_argument("--tests", type=_some_of(_TESTS), default=_TESTS, help=f"of {','.join(_TESTS)}")
    parser.add_argument("--peers", type=_some_of(PEERS), default=PEERS, help=f"of {','.join(PEERS)}")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of page and plot (docs)")
    parser.add_argument("--json", type=Path, help="where the raw figures go")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose proxy is measured (this one's)")
    parser.add_argument(
        "--install",
        action="store_true",
        help="measure two builds of it, compiled and interpreted (else: as it stands)",
    )
    parser.add_argument("--quick", action="store_true", help="one round of short tests: does it work at all?")
    args = parser.parse_args(words)
    args.checkout = args.checkout.resolve()
    if args.quick:
        args.rounds = 1
    return args


def _command(args: argparse.Namespace) -> str:
    """What of the command line decided on the figures; where they were written to did not."""
    words = ["python -m bench", "--quick" if args.quick else f"--rounds {args.rounds}"]
    words += [f"--tests {','.join(args.tests)}"] if args.tests != _TESTS else []
    words += [f"--peers {','.join(args.peers)}"] if args.peers != PEERS else []
    words += ["--install"] if args.install else []
    return " ".join(words)


def _count(word: str) -> int:
    if not word.isdecimal() or not 1 <= int(word) <= 50:
        raise argparse.ArgumentTypeError(f"{word}: a number from 1 to 50")
    return int(word)


def _some_of(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(words: str) -> tuple[str, ...]:
        chosen = [word for word in words.split(",") if word]
        for word in chosen:
            if word not in known:
                raise argparse.ArgumentTypeError(f"{word}: not one of {', '.join(known)}")
        return tuple(name for name in known if name in chosen)

    return parse


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _programs(peers: Sequence[str], relay: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The programs of the peers that are here, and a word on each that is not."""
    found, missing = {}, {}
    for name in peers:
        path = relay if name == "limit" else find(name)
        if path is None:
            missing[name] = "it is not on this machine"
            _say(f"{name}: left out: it is not on this machine")
        else:
            found[name] = path
    return found, missing


def _measure(args: argparse.Namespace, stage: Stage, load: Load, results: Results) -> None:
    names = [*(name for name in stage.programs if name != BASE), *stage.pythons]
    for test in side_by_side(quick=args.quick).values():
        if test.name in args.tests:
            # A fresh process for each reading, and a long hold: half as many rounds.
            rounds = max(1, args.rounds // 2) if test.fresh else args.rounds
            results.outcomes.append(compare(test, names, rounds, stage, load, _say))
    rounds = max(1, args.rounds // 2)
    for name in alone.ALONE:
        if name not in args.tests:
            continue
        try:
            match name:
                case "growth":
                    results.growth = alone.growth(stage, load, rounds, _say, quick=args.quick)
                    found = alone.routes(stage, load, rounds, _say, quick=args.quick)
                    results.routes = found[0]
                    results.left_out |= found[1]
                case "full":
                    results.full = alone.full(stage, load, _say, quick=args.quick)
                case _:
                    results.storms = alone.storm(stage, load, rounds, _say, quick=args.quick)
        except (StartFailed, LoadFailed, OSError, ValueError) as error:
            results.left_out[name] = str(error)
            _say(f"{name}: left out: {error}")


def _not_measured(results: Results, builds: Iterable[str]) -> bool:
    left_out = set(results.left_out) & set(alone.ALONE)
    return bool(left_out) or any(name not in outcome.pairs for outcome in results.outcomes for name in builds)


def _write(args: argparse.Namespace, results: Results) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    page, picture = args.out / "performance.md", args.out / report.PLOT
    drawn = _draw(results, picture)
    text = page.read_text(encoding="utf-8") if page.exists() else _SKELETON
    page.write_text(report.insert(text, report.markdown(results, plot=drawn)), encoding="utf-8")
    _say(f"written: {page}" + (f", {picture}" if drawn else ""))
    if args.json:
        args.json.write_text(json.dumps(_raw(results), indent=1) + "\n", encoding="utf-8")


def _draw(results: Results, picture: Path) -> bool:
    try:
        from bench.plot import draw

        draw(results, picture)
    except ImportError:
        _say("no plot: it needs matplotlib (pip install -e '.[bench]')")
        return False
    return picture.exists()


def _raw(results: Results) -> dict[str, object]:
    """Every single reading, as JSON takes it."""
    raw = {key: getattr(results, key) for key in ("command", "date", "machine", "versions", "left_out")}
    pairs = {
        o.test.name: {name: [dataclasses.asdict(pair) for pair in of] for name, of in o.pairs.items()}
        for o in results.outcomes
    }
    alone_of = {
        "growth": [dataclasses.asdict(one) for one in results.growth],
        "routes": [dataclasses.asdict(one) for one in results.routes],
        "full": dataclasses.asdict(results.full) if results.full else None,
        "storm": [dataclasses.asdict(one) for one in results.storms],
    }
    return {**raw, "pairs": pairs, **alone_of}


if __name__ == "__main__":
    sys.exit(main())
