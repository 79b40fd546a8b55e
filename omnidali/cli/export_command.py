"""``export``: a model for other programs."""

import argparse

from omnidali.cli.command import Command, option
from omnidali.utils.untrusted_text import say

_FORMATS = ("pth", "safetensors", "onnx", "torch-export", "folder")


def _export(options: argparse.Namespace) -> None:
    from omnidali.models.export import UNKNOWN_LICENSE, export_model

    written = export_model(
        options.checkpoint,
        options.out,
        options.format,
        license=options.license or UNKNOWN_LICENSE,
        trusted=options.trust,
    )
    average = ", averaged weights" if written.is_average else ""
    note = f" ({written.note})" if written.note else ""
    say(f"{written.tensors} tensors{average}: {options.out}{note}")


EXPORT = Command(
    name="export",
    summary="write a model for other programs",
    run=_export,
    options=(
        option(
            "--checkpoint",
            required=True,
            help="checkpoint, run folder for its best.pt, or a name of `omnidali help weights`",
        ),
        option(
            "--out",
            required=True,
            help="what to write: .pth as mmaction2 0.x reads it, .safetensors, .onnx, .pt2 of"
            " torch.export, or without an ending a folder for the Hugging Face hub",
        ),
        option("--format", choices=_FORMATS, help="default: by the ending of --out"),
        option("--license", help="for the model card of a folder, such as apache-2.0"),
        option(
            "--trust",
            action="append",
            default=[],
            metavar="FUNCTION",
            help="package.module:function that may be called where the checkpoint names it",
        ),
    ),
    examples=(
        "omnidali export --checkpoint runs/tsn_omni --out tsn_omni.safetensors",
        "omnidali export --checkpoint runs/tsn_omni --out tsn_omni.onnx",
        "omnidali export --checkpoint runs/tsn_omni --out tsn_omni --license apache-2.0",
    ),
)
