"""Write a network as a file that runs without this toolbox, and check it against PyTorch.

    python scripts/export.py -opt options/test/Sample/NAFNetLocal-SampleNoise.yml
    python scripts/export.py -opt options/test/GoPro/RestormerLocal-GoPro.yml --format torchscript --precision fp16

onnx (the default) is run by ONNX Runtime, torchscript by torch.jit.load, torch by torch.export.load. TLC is inside. The input
`lq` and the output `restored` are images (N, 3, H, W) in [0, 1], RGB, float32, of any number and size (torch: sides from 32 to
16384). Nothing is written unless the file's network agrees with PyTorch's.
"""

import argparse
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from basicsr import __version__
from basicsr.engine import build
from basicsr.engine.export import LIMIT, SUFFIX, Parity, compare, export_net, load_exported
from basicsr.errors import UserError
from basicsr.options import Options, display, load, resolve
from basicsr.utils.image import write_bytes
from basicsr.utils.log import run_entry_point

SIZES = ("64x64", "96x128", "101x83")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", required=True, metavar="FILE", help="YAML options with the network and its weights")
    parser.add_argument("--format", choices=SUFFIX, default="onnx", help="default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: results/export/<name>.{onnx,pt,pt2}")
    parser.add_argument("--precision", choices=LIMIT, default="fp32", help="of weights and arithmetic (default: %(default)s)")
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="HxW", help=f"to compare at (default: {' '.join(SIZES)})")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="SECTION:KEY=VALUE", help="override options of the file")
    args = parser.parse_args()
    sizes = [_size(text) for text in args.sizes]
    opt = load(args.opt, args.force_yml)
    suffix = SUFFIX[args.format]
    output = args.output or resolve("results/export") / f"{opt.name}{'-fp16' if args.precision == 'fp16' else ''}{suffix}"
    if output.suffix != suffix:
        raise UserError(f"--output {output}: a file of --format {args.format} is called something{suffix}.")

    net = build.build_net(opt.network_g.as_dict(), opt.path).eval()
    metadata = _metadata(opt, net, args.precision)
    if not metadata["weights"]:
        print("no weights are given: the network has its random initial weights.")
    print(f"exporting {metadata['arch']}; {metadata['tlc']}", flush=True)
    content = export_net(net, args.format, precision=args.precision, metadata=metadata)
    parity = compare(net, load_exported(content, args.format), sizes)
    print(_table(parity, args.format))
    worst, limit = max(parity, key=lambda row: row.difference), LIMIT[args.precision]
    if not worst.difference <= limit:  # nor when it is no number
        raise UserError(
            f"at {_text(worst.size)} the exported network is off by {worst.difference:.1e}, more than {limit:.0e}: "
            f"nothing was written to {display(output)}."
        )
    write_bytes(output, content)
    print(f"{display(output)}: {len(content) / 1e6:.1f} MB, within {limit:.0e} of PyTorch at {len(parity)} sizes")
    return 0


def _metadata(opt: Options, net: object, precision: str) -> dict[str, str]:
    report = getattr(net, "tlc_report", None)
    return {
        "arch": opt.network_g.type,
        "network": json.dumps(opt.network_g.as_dict()),
        "weights": Path(opt.path.pretrain_network_g or "").name,
        "tlc": report.summary() if report else "no TLC",
        "precision": precision,
        "version": __version__,
    }


def _size(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise UserError(f"--sizes {text}: write height x width, such as 96x128.")
    height, width = text.split("x")
    return int(height), int(width)


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _table(rows: list[Parity], kind: str) -> str:
    name = {"onnx": "ONNX Runtime", "torchscript": "TorchScript", "torch": "torch.export"}[kind]
    lines = [f"{'height x width':>14}  {'max difference':>14}  {'s PyTorch':>10}  {'s ' + name:>14}"]
    lines += [f"{_text(r.size):>14}  {r.difference:>14.1e}  {r.seconds_torch:>10.3f}  {r.seconds:>14.3f}" for r in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
