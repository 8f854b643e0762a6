"""Every notebook of nbs/experiments, also those still to come, executed by papermill with its default parameters, in order of name and
with one run folder, so that a later stage finds what an earlier one left."""

from pathlib import Path
import nbformat, papermill, pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / 'nbs' / 'experiments').glob('[!_.]*.ipynb'))


@pytest.fixture(scope='module')
def run_folder(tmp_path_factory):
    return tmp_path_factory.mktemp('experiments')


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_parameters(path):
    cells = [c for c in nbformat.read(path, 4).cells if 'parameters' in c.metadata.get('tags', [])]
    assert len(cells) == 1, f'{path.name}: exactly one cell carries the tag `parameters`'
    assert 'out_dir' in papermill.inspect_notebook(str(path)), f'{path.name} has no parameter out_dir'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_runs_with_its_defaults(path, run_folder, tmp_path):
    done = tmp_path / path.name
    papermill.execute_notebook(
        str(path),
        str(done),
        parameters=dict(out_dir=str(run_folder / 'run')),
        cwd=str(run_folder),
        kernel_name='python3',
        progress_bar=False,
    )
    assert [p for p in (run_folder / 'run').rglob('*') if p.is_file()], f'{path.name} left nothing in its out_dir'
    assert {p.name for p in run_folder.iterdir()} == {'run', 'data'}, f'{path.name} writes outside of out_dir and data/'
