"What does without the heavy packages, so that it starts in seconds, or is installed where they are not needed."

import subprocess, sys
import pytest


@pytest.mark.parametrize(
    'modules, without',
    [
        ('sabr.data.readers', 'matplotlib IPython monai fastai'),  # inference imports the readers
        ('sabr.data.cache, sabr.data.split', 'matplotlib IPython monai fastai fastcore'),
        ('sabr.use.predict', 'sabr.look.plots sabr.look.widgets seaborn'),
        (
            'sabr.run.command, sabr.run.sweep',
            'matplotlib IPython monai fastai torchvision',
        ),  # commands that read parameters, and the workers of a sweep
    ],
)
def test_light_imports(modules, without):
    code = f"import sys, {modules}; print([m for m in {without.split()} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
    )
