"""What goes into a wheel beyond pyproject.toml: basicsr/bundled/, with the paths that the files have in the repository."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# All that `tlc restore` and the options with the sample weights need; test and training pictures are not among it.
BUNDLED = (
    "options/schema.json",
    "options/**/*.yml",
    "options/**/*.md",
    "experiments/pretrained_models/*.safetensors",
    "experiments/pretrained_models/*.md",
    "datasets/*.md",
    "docs/*.md",
    "datasets/Sample/*.md",
    "datasets/Sample/demo/02_*",
    "datasets/Sample/test/target/02_*",
)
LEFT_OUT = "AllNorms"  # a network that shows where TLC does harm


class BuildWithBundle(build_py):
    """Copies the bundled files into wheels. Editable installs have them: the repository."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib, "basicsr"), ignore_errors=True)  # files of an earlier build that are gone
        super().run()
        if not self.editable_mode:
            for source, target in self._bundled():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def get_source_files(self) -> list[str]:
        """For source distributions."""
        return [*super().get_source_files(), *(source for source, _ in self._bundled())]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        bundled = [] if self.editable_mode else [target for _, target in self._bundled()]
        return [*super().get_outputs(include_bytecode), *bundled]

    def _bundled(self) -> Iterator[tuple[str, str]]:
        """Pairs of a file of the repository and its place in the build."""
        files = {file for pattern in BUNDLED for file in Path().glob(pattern) if LEFT_OUT not in str(file)}
        for file in sorted(files):
            yield file.as_posix(), str(Path(self.build_lib, "basicsr", "bundled", file))


setup(cmdclass={"build_py": BuildWithBundle})
