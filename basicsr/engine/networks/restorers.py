"""Published restorers: what is global in them, the patches that their checkpoints were trained on, and how that is known.

Patches are from the repositories' own options, at the input's resolution: those of super-resolution are divided by the scale.
"""

from typing import NamedTuple

from basicsr.engine.networks.operations import (
    CHANNELS,
    DESCRIPTOR,
    FILTERS,
    FOURIER,
    GRIDS,
    LAYERS,
    LINEAR,
    MIXTURE,
    NORMS,
    PIXELS,
    POOLING,
    PROMPTS,
    RESCALED,
    RESIZED,
    SCANS,
    SELECTIVE,
    SORTING,
    SPARSE,
    STRIPS,
    WEIGHTED,
)

# How it is known what is global in a network, and what becomes of it.
READ, RUN, HERE = "reading", "authors' code", "tests"
SPANDREL, DEEPINV = "spandrel 0.4.2", "deepinv 0.5.0"

DENOISE, DEBLUR, DERAIN, DEHAZE, SR = "denoising", "deblurring", "deraining", "dehazing", "super-resolution"
LIGHT, SEVERAL, ALL_IN_ONE = "low light", "several", "all in one"
_PROGRESSIVE = "256 and more, at the end {}; convert with 256, window 384"


class Restorer(NamedTuple):
    """A family of networks.

    Attributes:
        names: that it goes by, the best known first; `tlc convert` compares them with the class's name.
        operations: what is global in it.
        patch: sides that its checkpoints were trained on, in words; '' where that is not known.
        checked: how. RUN: the authors' code, where all that is global became local, or nothing is global.
        note: what its authors keep global, or run in windows, themselves.
    """

    names: tuple[str, ...]
    year: int
    task: str
    operations: tuple[str, ...]
    patch: str = ""
    checked: tuple[str, ...] = (READ,)
    note: str = ""


RESTORERS = (
    Restorer(("NAFNet", "Baseline"), 2022, SEVERAL, (POOLING,), "256", (HERE, RUN, SPANDREL)),
    Restorer(("HINet",), 2021, SEVERAL, (NORMS,), "256", (HERE, RUN)),
    Restorer(("MPRNet",), 2021, SEVERAL, (POOLING,), "256; denoising 128", (HERE, RUN, DEEPINV)),
    Restorer(("Restormer",), 2022, SEVERAL, (CHANNELS,), _PROGRESSIVE.format(384), (HERE, RUN, DEEPINV)),
    Restorer(("X-Restormer", "XRestormer"), 2024, SEVERAL, (CHANNELS, POOLING), "256; super-resolution 64", (RUN,)),
    Restorer(("RCAN",), 2018, SR, (POOLING,), "48", (RUN, SPANDREL)),
    Restorer(("HAT",), 2023, SR, (POOLING,), "64", (RUN, SPANDREL)),
    Restorer(("DAT",), 2023, SR, (CHANNELS, POOLING), "64", (SPANDREL,), "H and W are arguments of its blocks"),
    Restorer(("RGT",), 2024, SR, (PIXELS,), "64", (SPANDREL,)),
    Restorer(("GRL",), 2023, SEVERAL, (POOLING, PIXELS), "deblurring 480, JPEG 288, denoising 256", (SPANDREL,)),
    Restorer(("ART", "ARTUNet"), 2023, SEVERAL, (PIXELS,), "super-resolution 64, denoising 128, JPEG 126"),
    Restorer(("ATD",), 2024, SR, (SORTING, PIXELS), "64, then 96", (SPANDREL,)),
    Restorer(("DLGSANet",), 2023, SR, (SPARSE, CHANNELS), "48", note="its own windows: 96, 72, 48 for x2, x3, x4"),
    Restorer(("NAFSSR",), 2022, "stereo super-resolution", (POOLING, PIXELS), "30x90", (RUN,), "its own window: 45x135"),
    Restorer(("RIDNet",), 2019, DENOISE, (POOLING,), "", (RUN,)),
    Restorer(("CycleISP",), 2020, DENOISE, (POOLING,), "", (RUN,)),
    Restorer(("KBNet_s",), 2023, DENOISE, (POOLING,), _PROGRESSIVE.format(384), (RUN, SPANDREL)),
    Restorer(("KBNet_l",), 2023, DERAIN, (CHANNELS, POOLING), _PROGRESSIVE.format(320), (RUN, SPANDREL)),
    Restorer(("CascadedGaze", "CascadedGazeNet"), 2024, SEVERAL, (POOLING,), "SIDD 256; GoPro 256, ended at 384", (RUN,)),
    Restorer(("MLWNet",), 2024, DEBLUR, (POOLING,), "256, window 384", (RUN,), "its own local variant is reproduced"),
    Restorer(("FFA-Net", "FFA"), 2020, DEHAZE, (POOLING,), "240", (RUN,)),
    Restorer(("FocalNet",), 2023, DEHAZE, (POOLING, NORMS), "256", (RUN,)),
    Restorer(("M3SNet",), 2023, SEVERAL, (CHANNELS, POOLING), "", (RUN,)),
    Restorer(
        ("Retinexformer",),
        2023,
        LIGHT,
        (CHANNELS,),
        "LOL v1, v2-synthetic, SDSD indoor 128; LOL v2-real, SID, SMID, SDSD outdoor 256; FiveK 280; NTIRE 2000",
        (RUN, SPANDREL),
    ),
    Restorer(("MST++", "MST_Plus_Plus"), 2022, "spectra", (CHANNELS,), "", (RUN,)),
    Restorer(("CIDNet", "HVI-CIDNet"), 2025, LIGHT, (CHANNELS,), "256", (SPANDREL,)),
    Restorer(("InstructIR",), 2024, ALL_IN_ONE, (POOLING,), "", (RUN,), "`inputs:` its text's vector"),
    Restorer(("HI-Diff",), 2023, DEBLUR, (CHANNELS,), _PROGRESSIVE.format(384), (RUN,), "`inputs:` its prior"),
    Restorer(("PromptIR",), 2023, ALL_IN_ONE, (CHANNELS, PROMPTS), "128", (DEEPINV,)),
    Restorer(("AdaIR",), 2025, ALL_IN_ONE, (CHANNELS, POOLING, FOURIER), "128"),
    Restorer(("MoCE-IR", "MoCEIR"), 2025, ALL_IN_ONE, (CHANNELS, DESCRIPTOR), "128"),
    Restorer(("AirNet",), 2022, ALL_IN_ONE, (), "128", note="its pooling reaches no output at test time"),
    Restorer(("OneRestore",), 2024, ALL_IN_ONE, (CHANNELS, RESIZED), "256", note="`inputs:` its embedding"),
    Restorer(("DiffIR",), 2023, SEVERAL, (CHANNELS, DESCRIPTOR), "deblurring 192, ended at 512"),
    Restorer(("MIRNet",), 2020, SEVERAL, (SELECTIVE, POOLING), "denoising 128"),
    Restorer(("MIRNetV2", "MIRNet_v2"), 2022, SEVERAL, (SELECTIVE, WEIGHTED), _PROGRESSIVE.format(384)),
    Restorer(
        ("MixDehazeNet",), 2023, DEHAZE, (POOLING, SELECTIVE), "256; Haze4K t 400; Dense-Haze, NH-Haze 350, l 500", (SPANDREL,)
    ),
    Restorer(("gUNet",), 2022, DEHAZE, (SELECTIVE,), "256"),
    Restorer(("DehazeFormer",), 2023, DEHAZE, (RESCALED, SELECTIVE), "256"),
    Restorer(
        ("SFNet",),
        2023,
        SEVERAL,
        (POOLING, NORMS, FILTERS, GRIDS),
        "256",
        note='`exclude: ["SCM*", "*.dyna*.ap"]`, as its GoPro test mode; its windows: GoPro 80, HIDE 110, RSBlur 75, '
        "dehazing 246 indoor, 210 outdoor, CSD 200, each of the first test image's 256th part",
    ),
    Restorer(("FSNet",), 2024, SEVERAL, (POOLING, NORMS, FILTERS, GRIDS), "256", note="its own windows: GoPro 80, OTS 210"),
    Restorer(("IRNeXt",), 2023, SEVERAL, (POOLING, NORMS, FILTERS), "256"),
    Restorer(("ConvIR",), 2024, SEVERAL, (POOLING, NORMS, FILTERS, STRIPS), "256; real haze 800x1184"),
    Restorer(("OKNet",), 2024, SEVERAL, (NORMS, FOURIER), "256"),
    Restorer(("DRSformer",), 2023, DERAIN, (SPARSE, MIXTURE), "128"),
    Restorer(("MB-TaylorFormer",), 2023, SEVERAL, (LINEAR, SELECTIVE), "256"),
    Restorer(("LLFormer",), 2023, LIGHT, (PIXELS, LAYERS), "128"),
    Restorer(("Stripformer",), 2022, DEBLUR, (PIXELS,), "256, ended at 512"),
    Restorer(("MAXIM",), 2022, SEVERAL, (POOLING, GRIDS)),
    Restorer(("DarkIR",), 2025, LIGHT, (POOLING, FOURIER)),
    Restorer(("FADformer",), 2024, DERAIN, (POOLING, FOURIER)),
    Restorer(("DeepRFT",), 2023, DEBLUR, (FOURIER,), "256; DPDD 512"),
    Restorer(("LoFormer",), 2024, DEBLUR, (FOURIER,), _PROGRESSIVE.format(384), note="its own windows: 384, blended over 32"),
    Restorer(("MambaIR",), 2024, SEVERAL, (POOLING, SCANS), "64; denoising 128; MambaIR-UNet 256, ended at 384"),
    Restorer(("MambaIRv2",), 2025, SR, (SCANS, SORTING), "64; x4 48"),
    Restorer(("EVSSM",), 2025, DEBLUR, (SCANS,), "128", note="its own windows: 384, 192, 96 at its three levels"),
    Restorer(("Histoformer",), 2024, "weather", (SORTING,), _PROGRESSIVE.format(362)),
    Restorer(("FPro",), 2024, DERAIN, (FOURIER,), "256, the only size that it takes"),
    Restorer(("Uformer",), 2022, SEVERAL, (), "", (RUN, SPANDREL)),
    Restorer(("SwinIR",), 2021, SEVERAL, (), "", (RUN, SPANDREL, DEEPINV)),
    Restorer(("SCUNet",), 2023, DENOISE, (), "", (RUN,)),
    Restorer(("SAFMN",), 2023, SR, (), "", (RUN, SPANDREL)),
    Restorer(("FFTformer",), 2023, DEBLUR, (), "", (RUN, SPANDREL)),
    Restorer(("CBDNet",), 2019, DENOISE, (), "", (RUN,)),
    Restorer(("AST",), 2024, SEVERAL, (), "", (RUN,)),
    Restorer(("MIMO-UNet", "MIMOUNet"), 2021, DEBLUR, (), "", (RUN,)),
    Restorer(("DRUNet",), 2021, DENOISE, (), "", (RUN, SPANDREL)),
    Restorer(("IMDN",), 2019, SR, (), "", (RUN,)),
    Restorer(("DnCNN",), 2017, DENOISE, (), "", (RUN, SPANDREL, DEEPINV)),
)
