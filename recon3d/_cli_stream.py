"""``recon3d stream``."""

from __future__ import annotations

from pathlib import Path

from recon3d._cli_report import Reporter
from recon3d._takes import read_take


def run_stream(
    path: Path,
    endpoint: str,
    *,
    head: Path | None,
    fps: float | None,
    loop: bool,
    names: str | None,
    lower_camel: bool,
    reporter: Reporter,
) -> int:
    """Play a capture, a Live Link Face take or a clip to a VMC receiver; return the exit status.

    Raises:
        UsageError: The endpoint or the frame rate is none, or there is no such name map.
        MissingExtraError: python-osc is not installed.
        InputError: The input, the head model or the name map cannot be used.
        NoFaceError: The clip shows no face.
        OutputError: There is no such host, or the network fails.
    """
    from recon3d.export.name_map import NameMap
    from recon3d.head import load_head
    from recon3d.media._open import shown
    from recon3d.stream import VmcSender, parse_endpoint, perform, play

    host, port = parse_endpoint(endpoint)
    curves = None if names is None else NameMap.load(names)
    model = load_head(head)
    say = (lambda line: None) if reporter.quiet else reporter.say
    with VmcSender(host, port) as sender:
        take = read_take(path, model, announce=say)
        performance = perform(take, model, fps=fps, names=curves, lower_camel=lower_camel)
        length = len(performance) / performance.fps
        again = ", again and again" if loop else ""
        say(
            f"{shown(path)} -> {host}:{port}: {length:.1f} s at {performance.fps:g} frames/s{again}; "
            "Ctrl-C stops"
        )
        played = play(performance, sender, loop=loop)
    reporter.done(path, f"{shown(path)}: {played.sent} frames sent", sent=played.sent, skipped=played.skipped)
    return reporter.exit_status()
