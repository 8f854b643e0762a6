"What starts without the heavy packages, so that it takes seconds, or is installed where they are not needed."

import subprocess, sys
import pytest

LIGHT = [
    ('sabr.data.readers', 'matplotlib IPython monai fastai'),  # inference imports the readers
    ('sabr.data.cache, sabr.data.split', 'matplotlib IPython monai fastai fastcore'),
    ('sabr.use.predict', 'sabr.look.images sabr.look.cases sabr.look.widgets seaborn'),
    # the commands, which only read parameters themselves, and the workers of a sweep
    ('sabr.run.command, sabr.run.sweep', 'matplotlib IPython monai fastai torchvision'),
]


@pytest.mark.parametrize('modules, without', LIGHT)
def test_light_imports(modules, without):
    code = f"import sys, {modules}; print([m for m in {without.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
