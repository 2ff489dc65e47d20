"""An export: a network as a file, written only when what it computes has been found equal to PyTorch's."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from basicsr import __version__
from basicsr.engine import build
from basicsr.engine.export import LIMIT, SUFFIX, Parity, compare, example_size, export_net, load_exported
from basicsr.errors import UserError
from basicsr.options import Options, display, resolve
from basicsr.utils.files import require_writable, write_bytes

logger = logging.getLogger("basicsr")
RUNTIMES = {"onnx": "ONNX Runtime", "torchscript": "TorchScript", "torch": "torch.export"}


def run_export(opt: Options, kind: str, precision: str, sizes: Sequence[tuple[int, int]], output: Path | None) -> Path:
    """Export network_g with its weights and compare it with PyTorch's.

    Args:
        kind: a key of SUFFIX. precision: a key of LIMIT. sizes: (height, width) to compare at.
        output: the file; None: results/export/<name>.

    Returns:
        The file.

    Raises:
        UserError: options or weights that do not fit; a network that cannot be exported, or is another one when it is: then
            nothing is written.
    """
    suffix = SUFFIX[kind]
    output = output or resolve("results/export") / f"{opt.name}{'-fp16' if precision == 'fp16' else ''}{suffix}"
    if output.suffix != suffix:
        raise UserError(f"--output {output}: a file of --format {kind} is called something{suffix}.")
    require_writable(output.parent)
    net = build.build_net(opt.network_g.as_dict(), opt.path, opt.datasets.get("train")).eval()
    metadata = _metadata(opt, net, precision)
    if not metadata["weights"]:
        logger.warning("no weights are given: the network has its random initial weights.")
    logger.info("exporting %s; %s", metadata["arch"], metadata["tlc"])
    content = export_net(net, kind, precision=precision, metadata=metadata, example=example_size(sizes))
    parity = compare(net, load_exported(content, kind), sizes)
    logger.info("%s", table(parity, kind))
    worst, limit = max(parity, key=lambda row: row.difference), LIMIT[precision]
    if not worst.difference <= limit:  # nor when it is no number
        raise UserError(
            f"at {_text(worst.size)} the exported network is off by {worst.difference:.1e}, more than {limit:.0e}: "
            f"nothing was written to {display(output)}."
        )
    write_bytes(output, content)
    logger.info("%s: %.1f MB, within %.0e of PyTorch at %d sizes", display(output), len(content) / 1e6, limit, len(parity))
    return output


def table(rows: Sequence[Parity], kind: str) -> str:
    """A line a size."""
    lines = [f"{'width x height':>14}  {'max difference':>14}  {'s PyTorch':>10}  {'s ' + RUNTIMES[kind]:>14}"]
    lines += [f"{_text(r.size):>14}  {r.difference:>14.1e}  {r.seconds_torch:>10.3f}  {r.seconds:>14.3f}" for r in rows]
    return "\n".join(lines)


def _metadata(opt: Options, net: nn.Module, precision: str) -> dict[str, str]:
    report = getattr(net, "tlc_report", None)
    return {
        "arch": opt.network_g.type,
        "network": json.dumps(opt.network_g.as_dict()),
        "weights": Path(opt.path.pretrain_network_g or "").name,
        "tlc": report.summary() if report else "no TLC",
        "channels": str(getattr(net, "in_channels", 3)),
        "precision": precision,
        "version": __version__,
    }


def _text(size: tuple[int, int]) -> str:
    """Width x height, as pictures are named."""
    return f"{size[1]}x{size[0]}"
