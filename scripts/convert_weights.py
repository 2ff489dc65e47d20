"""Convert weights between .pth and .safetensors, whatever they are wrapped in.

    python scripts/convert_weights.py --input experiments/MyNet/models/net_g_9000.pth --output MyNet.safetensors

A .pth is written in BasicSR's wrapper, {"params": state dict}.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from basicsr.errors import UserError
from basicsr.utils.checkpoint import read_weights, save_safetensors, save_torch
from basicsr.utils.log import run_entry_point


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, type=Path, help="a checkpoint")
    parser.add_argument("--output", required=True, type=Path, help="name.pth or name.safetensors")
    parser.add_argument("--param_key", help="the wrapper's key; found by itself when left out")
    args = parser.parse_args()
    if args.output.suffix not in (".pth", ".safetensors"):
        raise UserError(f"--output {args.output}: the name must end in .pth or .safetensors.")
    weights = read_weights(args.input, args.param_key)
    if args.output.suffix == ".pth":
        save_torch(args.output, {"params": weights})
    else:
        save_safetensors(args.output, weights)
    print(f"{len(weights)} tensors in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_entry_point(main))
