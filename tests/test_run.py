"A run end to end: what it leaves behind, going on after a kill, a full disk, wrong parameters, wrong data."

import errno, json, subprocess, sys, time
from pathlib import Path
import numpy as np
import pandas as pd
import papermill
import pytest
import sabr.nets.weights
from in_process import notebooks_in_process
from PIL import Image
from processes import finish, start
from safetensors.torch import load_file
from sabr.core import SabrError, find_data, load_json
from sabr.run import stages
from sabr.run.command import main
from sabr.run.config import RunConfig, stage_notes

SMALL = dict(image_size=32, steps=6, batch_size=2, epochs=2, device='cpu')
PHANTOM = dict(data_options=dict(n_patients=10, size=64))
METRICS = {'dice', 'jaccard', 'precision', 'recall', 'hd95', 'asd', 'n_misses'}


def options(**parameters):
    "The command line of these parameters"
    words = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in parameters.items()}
    return [word for name, value in words.items() for word in (f'--{name}', value)]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "The folder of a run as from the terminal: a kernel executes each notebook"
    out = tmp_path_factory.mktemp('run') / 'r'
    assert main(options(out_dir=out, **SMALL, **PHANTOM)) == 0
    return out


def test_run_folder_is_complete(run):
    names = {str(p.relative_to(run)) for p in run.rglob('*') if p.is_file()}
    want = {'config.json', 'history.csv', 'metrics.json', 'per_case.csv', 'run.log', 'splits.csv', 'stages.json'}
    want |= {f'{stage}.safetensors' for stage in ('inception', 'pretrain', 'finetune', 'refine', 'baseline')}
    want |= {f'{name}.ipynb' for name in ('00_inception', '01_pretrain', '02_finetune', '03_refine', '04_test')}
    assert want | {'figures/cases.png'} <= names
    assert not [n for n in names if n.endswith(('.ckpt', '.tmp'))]


def test_metrics(run):
    metrics = load_json(run / 'metrics.json')
    assert metrics['unit'] == 'mm' and metrics['tool'].startswith('MONAI')
    assert set(metrics['wall_s']) == {'inception', 'pretrain', 'finetune', 'baseline', 'refine', 'test'}
    assert {'baseline', 'pretrain', 'finetune', 'refine', 'refine_best'} <= set(metrics['stages'])


@pytest.mark.parametrize('split', ['validation', 'test'])
def test_metrics_of_a_split(run, split):
    metrics = load_json(run / 'metrics.json')[split]
    classes = metrics['classes'].values()
    assert METRICS <= set(metrics['mean']) and set(metrics['classes']) == {'lv', 'myo', 'la'}
    assert all(METRICS <= set(scores) for scores in classes) and metrics['n_cases'] > 0
    assert metrics['mean']['dice'] == pytest.approx(np.mean([scores['dice'] for scores in classes]))


def test_per_case_agrees_with_metrics(run):
    scores, metrics = pd.read_csv(run / 'per_case.csv'), load_json(run / 'metrics.json')
    scores = scores[(scores.stage == metrics['final_stage']) & (scores.split == 'test')]
    assert scores.dice.mean() == pytest.approx(metrics['test']['mean']['dice'])
    assert scores.case.nunique() == metrics['test']['n_cases']


def test_config_and_history(run):
    config = load_json(run / 'config.json')
    assert config['parameters']['steps'] == 6
    assert config['environment']['packages']['torch'] and config['data_fingerprint']
    history = pd.read_csv(run / 'history.csv')
    assert history.groupby('stage').size().to_dict() == dict(pretrain=2, finetune=2, baseline=2, refine=1)
    assert sum(' epoch ' in line for line in (run / 'run.log').read_text().splitlines()) == 7


def test_second_call_does_nothing_again(run, capsys):
    written = (run / 'refine.safetensors').stat().st_mtime_ns
    assert main(options(out_dir=run, **SMALL, **PHANTOM)) == 0
    assert (run / 'refine.safetensors').stat().st_mtime_ns == written
    assert 'done already' in capsys.readouterr().out


def test_other_parameters_are_refused(run, capsys):
    assert main(options(out_dir=run, **SMALL | dict(steps=7), **PHANTOM)) == 1
    assert 'steps=6 there, 7 here' in capsys.readouterr().err


WRONG = [
    (dict(method='nope'), "method='nope' is not known"),
    (dict(cutmix_shar=0.3), "Did you mean 'cutmix_share'?"),
    (dict(method='published', alternat='false'), "Did you mean 'alternate'?"),
    (dict(method='published', cutmix_share=0.3), "there is no option '--cutmix_share'"),  # of another method
]


@pytest.mark.parametrize('wrong, words', WRONG, ids=lambda value: '-'.join(value) if isinstance(value, dict) else '')
def test_unknown_method_or_option(wrong, words, tmp_path, monkeypatch, capsys):
    "One line that names it, and nothing is written"
    monkeypatch.chdir(tmp_path)
    assert main(options(out_dir='run', **SMALL, **PHANTOM, **wrong)) == 1
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1 and words in said, said
    assert not list(tmp_path.iterdir())


def test_papermill_refuses_an_unknown_parameter(tmp_path):
    notebook = Path(__file__).parent.parent / 'nbs' / 'experiments' / '01_pretrain.ipynb'
    wrong = dict(parameters=dict(batchsize=4), progress_bar=False, kernel_name='python3')
    with notebooks_in_process():
        with pytest.raises(papermill.PapermillExecutionError, match="Did you mean 'batch_size'"):
            papermill.execute_notebook(str(notebook), str(tmp_path / 'x.ipynb'), **wrong)


PREDICT = """import sys
from sabr.use.predict import main
main(sys.argv[1:])
print([m for m in ('IPython', 'matplotlib', 'ipywidgets', 'fastai', 'monai') if m in sys.modules])"""


def test_predicts_without_notebook_packages(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (50, 70), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    command = [sys.executable, '-c', PREDICT, str(run), str(tmp_path / 'a.png'), '--out_dir', str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == '[]', done.stderr
    assert np.array(Image.open(tmp_path / 'a_seg.png')).shape == (50, 70)


def pretrain(parameters):
    stages.pretrain(RunConfig(**parameters), bar=False)


def test_goes_on_after_sigkill(tmp_path):
    "A process killed in the middle of pretraining and started again ends with the weights of one that was left alone"

    def begin(name):
        parameters = SMALL | PHANTOM | dict(epochs=6, steps=12, out_dir=str(tmp_path / name))
        return start(pretrain, parameters, log=tmp_path / f'{name}.log')

    torn = begin('torn')
    until = time.time() + 300
    while not (tmp_path / 'torn' / 'pretrain.ckpt').exists() and torn.is_alive() and time.time() < until:
        time.sleep(0.02)
    torn.kill()
    torn.join()
    assert 'pretrain' not in stage_notes(tmp_path / 'torn'), 'the kill came too late to prove anything'
    finish(begin('torn'), begin('whole'))
    assert 'goes on after epoch' in (tmp_path / 'torn' / 'run.log').read_text()
    weights, expected = (load_file(tmp_path / name / 'pretrain.safetensors') for name in ('torn', 'whole'))
    assert all((weights[name] == expected[name]).all() for name in expected)


def test_full_disk_at_the_end_of_training(tmp_path, monkeypatch):
    "The weights cannot be written: one clear error, nothing lost, and the next call does not train again"
    cfg = RunConfig(out_dir=str(tmp_path / 'r'), **SMALL, **PHANTOM)
    real = sabr.nets.weights.save

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(sabr.nets.weights, 'save', full)
    with pytest.raises(SabrError, match='pretrain.safetensors.*Free some space'):
        stages.pretrain(cfg, bar=False)
    history = (tmp_path / 'r' / 'history.csv').read_text()
    assert (tmp_path / 'r' / 'pretrain.ckpt').exists()
    monkeypatch.setattr(sabr.nets.weights, 'save', real)
    stages.pretrain(cfg, bar=False)
    assert (tmp_path / 'r' / 'history.csv').read_text() == history
    assert (tmp_path / 'r' / 'pretrain.safetensors').exists()


# --- wrong data: one line each, before anything is trained ------------------------------------------------------------


def folder(root, n=12, patients=str, without=()):
    "A data set of `n` images and masks of a square, with a list of patients; masks are missing `without` some"
    for sub in ('images', 'masks'):
        (root / sub).mkdir(parents=True)
    rng = np.random.default_rng(0)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 255
    for i in range(n):
        Image.fromarray(rng.integers(0, 255, (40, 40), np.uint8)).save(root / 'images' / f'c{i}.png')
        if i not in without:
            Image.fromarray(mask).save(root / 'masks' / f'c{i}.png')
    table = pd.DataFrame(dict(case=[f'c{i}' for i in range(n)], patient=[patients(i) for i in range(n)]))
    table.to_csv(root / 'list.csv', index=False)
    return root


def refused(capsys, path, *words, **changes):
    "The command ends with one line that has these words"
    assert main(options(dataset='folder', data_path=path, out_dir=path / 'run', **SMALL | changes)) == 1
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1, said
    for word in words:
        assert word in said, said
    assert not (path / 'run' / 'pretrain.ckpt').exists()


def test_one_patient_only(tmp_path, capsys):
    refused(capsys, folder(tmp_path / 'd', patients=lambda i: 'p1'), 'patient', 'three are needed')


def test_fewer_labelled_than_a_batch(tmp_path):
    "They come more than once in a batch, and a warning says so"
    few = dict(data_path=folder(tmp_path / 'd'), out_dir=tmp_path / 'run', batch_size=8, label_fraction=0.2)
    warning = 'batch_size=8, but there are only . training images with a label'
    with notebooks_in_process(), pytest.warns(UserWarning, match=warning):
        assert main(options(dataset='folder', **SMALL | few)) == 0
    assert (tmp_path / 'run' / 'metrics.json').exists()


def test_no_mask_in_a_labelled_role(tmp_path, capsys):
    path = folder(tmp_path / 'd', without=[3])
    table = pd.read_csv(path / 'list.csv')
    table['split'] = ['test'] * 4 + ['valid'] * 2 + ['train'] * 6
    table.to_csv(path / 'list.csv', index=False)
    refused(capsys, path, 'c3', 'no mask in a labelled role')


def truncate(path):
    path.write_bytes(path.read_bytes()[:400])


def test_truncated_image(tmp_path, capsys):
    path = folder(tmp_path / 'd')
    truncate(path / 'images' / 'c5.png')
    refused(capsys, path, 'c5.png', "on_bad='warn'")


def test_sizes_differ(tmp_path, capsys):
    path = folder(tmp_path / 'd')
    Image.new('L', (20, 20)).save(path / 'masks' / 'c2.png')
    refused(capsys, path, 'c2.png', '20')


def test_undeclared_label(tmp_path, capsys):
    path = folder(tmp_path / 'd')
    mask = np.zeros((40, 40), np.uint8)
    mask[:9] = 1
    mask[9:15] = 7
    Image.fromarray(mask).save(path / 'masks' / 'c2.png')
    declared = dict(classes=['a', 'b'], labels={'0': 0, '1': 1, '2': 2, '255': 1})
    refused(capsys, path, 'c2.png', '7', data_options=declared)


def test_empty_folder(tmp_path, capsys):
    (tmp_path / 'd').mkdir()
    refused(capsys, tmp_path / 'd', 'd')


def test_bad_files_may_be_left_out(tmp_path):
    "With on_bad='warn' the run goes on, and there is a list of what was left out"
    path = folder(tmp_path / 'd', n=16)
    truncate(path / 'images' / 'c5.png')
    cfg = RunConfig(dataset='folder', data_path=str(path), out_dir=str(path / 'run'), on_bad='warn', **SMALL)
    with pytest.warns(UserWarning, match='1 of 16 cases'):
        data = stages.load_data(cfg)
    assert len(data.cases) == 15 and data.cache.bad.case.tolist() == ['c5']


# --- real data, where there are any -----------------------------------------------------------------------------------


@pytest.mark.parametrize('name, unit', [('camus', 'mm'), ('busi', 'px'), ('ddti', 'px')])
def test_real_data(name, unit, tmp_path):
    path = find_data(name)
    if path is None:
        pytest.skip(f'no real {name} images here (data/{name}/README.md says where to get them)')
    short = SMALL | dict(steps=2, epochs=1, label_fraction=0.5)
    cfg = RunConfig(dataset=name, data_path=str(path), out_dir=str(tmp_path / 'r'), **short)
    data = stages.load_data(cfg)
    stages.pretrain(cfg, False, data)
    some = data.cases[data.cases.split == 'test'].head(4)
    scores = stages.score_cases(some, lambda row, image: np.zeros(image.shape, np.uint8), progress=False)
    assert set(scores.unit) == {unit} and scores.dice.between(0, 1).all()
    if name == 'camus':
        assert data.cases.groupby('split').patient.nunique().to_dict() == dict(train=3, valid=1, test=1)
