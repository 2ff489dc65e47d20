"""Restore your photographs.

python basicsr/demo.py -opt options/demo/demo.yml
python basicsr/demo.py --input photo.jpg --output restored.png
python basicsr/demo.py --input photos/ --output restored/ --arch RestormerLocal --weights motion_deblurring.pth
python basicsr/demo.py --input photo.jpg --output restored.png --weights restormer.onnx
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p).resolve() != HERE)]  # this basicsr before any other

import basicsr

if Path(basicsr.__file__).resolve().parent != HERE:
    print(f"error: another basicsr is imported, {basicsr.__file__}: uninstall it (pip uninstall basicsr).", file=sys.stderr)
    sys.exit(2)

from basicsr.engine.build import options_for_weights
from basicsr.engine.restoring.run_demo import run_demo
from basicsr.errors import UserError
from basicsr.options import load, overrides_of, resolve, resolve_input
from basicsr.utils.log import run_entry_point


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", default="options/demo/demo.yml", metavar="FILE", help="YAML options (default: %(default)s)")
    parser.add_argument("--input", nargs="+", type=Path, metavar="PATH", help="photographs: files, folders or patterns")
    parser.add_argument("--output", type=Path, metavar="PATH", help="a file, or a folder for several")
    parser.add_argument("--target", type=Path, metavar="PATH", help="the sharp photograph or folder, to print PSNR")
    parser.add_argument("--arch", metavar="NAME", help="network such as RestormerLocal; its options are read off the weights")
    parser.add_argument(
        "--weights", metavar="FILE", help="checkpoint for --arch; or a network that scripts/export.py wrote, .onnx"
    )
    parser.add_argument("--compare", action="store_true", help="also draw input, plain and -Local net side by side")
    parser.add_argument("--safe", action="store_true", help="restore without TLC where the result cannot be right")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="SECTION:KEY=VALUE", help="override options of the file")
    args = parser.parse_args()
    onnx = resolve_input(args.weights) if args.weights and Path(args.weights).suffix == ".onnx" else None
    if onnx and args.arch:
        raise UserError(f"{args.weights} holds its network: leave --arch out.")
    if bool(args.arch) != bool(args.weights) and not onnx:
        alone = "; only .onnx files hold their network" if args.weights else ""
        raise UserError(f"--arch and --weights belong together: give both or neither{alone}.")
    opt = load(args.opt, args.force_yml)
    if args.arch:
        opt = options_for_weights(opt, args.arch, args.weights, overrides_of("network_g", args.force_yml))
    paths = opt.img_path
    if paths is None and not (args.input and args.output):
        raise UserError(f"{args.opt} has no img_path: give --input and --output.")
    sources = args.input or [resolve(paths.input_img)]
    if args.input and not args.output:
        raise UserError("--input needs --output, a file or a folder for the restored photographs.")
    target = args.target or (resolve(paths.target_img) if paths and paths.target_img and not args.input else None)
    output = args.output or resolve(paths.output_img)
    return run_demo(opt, sources, output, target, compare=args.compare, onnx=onnx, safe=args.safe)


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
