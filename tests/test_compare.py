"""The comparison as a new user starts it: a folder of images, one of masks, a CSV of patients, one command."""

import json, shutil
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw
from safetensors.numpy import load_file
from sabr.evidence.ablate import ABLATIONS, free_parts
from sabr.evidence.compare import main
from sabr.methods.rival import Rival
from sabr.methods.table import METHODS

RIVALS = {name for name, cls in METHODS.items() if issubclass(cls, Rival)}

PATIENTS, OF_EACH = 14, 2


def draw(rng):
    "A gray image with a dark ellipse, and its mask"
    mask = Image.new('L', (50, 40))
    x, y = rng.integers(5, 25, 2)
    ImageDraw.Draw(mask).ellipse((x, y, x + 18, y + 12), fill=255)
    image = rng.normal(90, 30, (40, 50)) - 60 * (np.asarray(mask) > 0)
    return Image.fromarray(np.clip(image, 0, 255).astype('uint8')), mask


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp('mine'), np.random.default_rng(0)
    for folder in ('images', 'masks'):
        (root / folder).mkdir()
    rows = []
    for patient in range(PATIENTS):
        for number in range(OF_EACH):
            case = f'{patient}_{number}'
            image, mask = draw(rng)
            image.save(root / 'images' / f'{case}.png')
            mask.save(root / 'masks' / f'{case}.png')
            rows.append(dict(case=case, patient=f'person{patient}'))
    pd.DataFrame(rows).to_csv(root / 'list.csv', index=False)
    return root


def command(data, out, *more):
    "The command line for the protocol that takes seconds, with one seed"
    paths = ['--dataset', 'folder', '--data_path', str(data), '--out', str(out)]
    return [*paths, '--protocol', 'smoke', '--seeds', '0', *more]


@pytest.fixture(scope='module')
def done(data, tmp_path_factory):
    out = tmp_path_factory.mktemp('compare')
    assert main(command(data, out, '--ablate', '--stress')) == 0
    return out


def test_every_method_is_there(done):
    table = pd.read_csv(done / 'compare.csv')
    columns = 'dataset protocol method label_fraction seed dice jaccard hd95 asd n_misses image_passes wall_s'
    assert list(table) == columns.split()
    assert set(table.method) == set(METHODS) and RIVALS < set(METHODS)
    assert table.image_passes.nunique() == 1
    assert table[table.label_fraction == 1].method.tolist() == ['supervised']
    assert not (done / 'failed.json').exists()


def test_differences_are_of_patients(done):
    table = pd.read_csv(done / 'compare_stats.csv')
    splits = pd.read_csv(done / 'default_0.5_0' / 'splits.csv', dtype=str)
    assert list(table)[:9] == 'dataset protocol label_fraction method rival diff lo hi p_holm'.split()
    assert set(table.rival) == set(METHODS) - {'default'}
    assert (table.n_patients == splits[splits.split == 'test'].patient.nunique()).all()
    assert splits.groupby('patient').split.nunique().max() == 1


def test_table_of_the_ablation(done):
    table = pd.read_csv(done / 'ablate.csv')
    assert set(ABLATIONS['default']) | set(free_parts('default')) == set(table.part)
    assert {'dataset', 'protocol', 'label_fraction', 'seed', 'dice', 'hd95'} < set(table)


def test_tables_of_the_stress(done):
    table = pd.read_csv(done / 'stress.csv')
    assert set(table.method) == set(METHODS)
    assert set(table.coverage) == {0, 0.2, 0.4, 0.6} and set(table.depth_db) == {0, 12, 30}
    differences = pd.read_csv(done / 'stress_stats.csv')
    assert set(differences.rival) == set(METHODS) - {'default'} and (differences.n_seeds == 1).all()
    assert {'diff', 'lo', 'hi', 'p_holm', 'diff_loss', 'p_holm_loss'} < set(differences)


def test_table_of_real_shadows(done):
    table = pd.read_csv(done / 'real_shadows.csv')
    assert set(table.method) == set(METHODS) and table.dice.between(0, 1).all()
    assert set(table.third) == {'shadow', 'between', 'enhancement'}


def test_pictures_and_latex(done):
    for name in ('ablate.png', 'compare.png', 'stress.png'):
        assert (done / name).stat().st_size
    assert 'toprule' in (done / 'compare.tex').read_text()


def test_the_test_split_is_the_same_for_all(done):
    first, *others = [pd.read_csv(path, dtype=str) for path in sorted(done.glob('*_0.5_0/splits.csv'))]
    assert others
    for other in others:
        pd.testing.assert_frame_equal(first, other)


def spoil(data, splits, folder):
    "A copy of the data in which the masks of the unlabelled training images are wrong"
    spoilt = shutil.copytree(data, folder / data.name)
    for case in splits[splits.labelled == 'False'].case:
        Image.new('L', (50, 40), 255).save(spoilt / 'masks' / f'{case}.png')
    return spoilt


def test_labels_of_unlabelled_images_do_not_matter(data, done, tmp_path):
    "With other masks of the unlabelled training images, every weight and score stays the same"
    rivals = [name for name, method in METHODS.items() if method.uses_unlabelled and issubclass(method, Rival)]
    methods, right, wrong = ('default', *rivals[-2:]), tmp_path / 'right', tmp_path / 'wrong'
    # the teacher is asked from the first step on
    changes = json.dumps(dict(labelled_only_share=0.0, finetune_steps=8, loss_weights=dict(consistency=1.0)))
    spoilt = spoil(data, pd.read_csv(done / 'default_0.5_0' / 'splits.csv', dtype=str), tmp_path)
    for folder, out in ((data, right), (spoilt, wrong)):
        assert main(command(folder, out, '--methods', ','.join(methods), '--set', changes)) == 0
    dice, expected = (pd.read_csv(out / 'compare.csv').set_index('method').dice.to_dict() for out in (wrong, right))
    assert dice == expected and set(dice) == set(methods)
    history = pd.read_csv(right / 'default_0.5_0' / 'history.csv')
    assert (history[history.stage == 'finetune'].consistency > 0).all()
    for stage in ('pretrain', 'finetune', 'refine'):
        weights, expected = (load_file(out / 'default_0.5_0' / f'{stage}.safetensors') for out in (wrong, right))
        assert all((weights[name] == expected[name]).all() for name in expected), stage


def test_mistakes_are_named(data, tmp_path, capsys):
    assert main(command(data, tmp_path, '--methods', 'defualt')) == 1
    assert "Did you mean 'default'?" in capsys.readouterr().err
    assert main(['--out', str(tmp_path), '--set', json.dumps(dict(stepz=3))]) == 1
    assert "Did you mean 'steps'?" in capsys.readouterr().err
