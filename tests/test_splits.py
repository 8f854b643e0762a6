"No patient or picture is in two splits; labelled subsets are nested; a published split is used as it is or refused."

import numpy as np
import pandas as pd
import pytest
from sabr.core import ConfigError, DataError, find_data
from sabr.data.split import case_groups, draw_labelled, load_splits, save_splits, split_cases

FRACTIONS = (0.05, 0.1, 0.2, 0.5, 1.0)
CATEGORIES = ('benign', 'malignant', 'normal')


def table(seed=0, patients=25, twins=6, blank=0.2, path='data/x'):
    "A case table of patients with 1 to 5 images, some without a patient id, and `twins` pairs of identical images."
    rng = np.random.default_rng(seed)
    rows = []
    for p in range(patients):
        patient = '' if rng.random() < blank else f'p{p}'
        category = CATEGORIES[rng.integers(len(CATEGORIES))]
        for i in range(rng.integers(1, 6)):
            mask = (f'{path}/{p}-{i}.png',)
            rows.append(dict(case=f'{p}-{i}', patient=patient, category=category, mask=mask))
    cases = pd.DataFrame(rows).assign(split='', labelled=True, hash=[f'h{i}' for i in range(len(rows))])
    for _ in range(twins):
        i, j = rng.choice(len(cases), 2, replace=False)
        cases.loc[i, 'hash'] = cases.loc[j, 'hash']
    cases.attrs.update(dataset='x', path=path)
    return cases


def crossings(cases):
    "How often a patient or a picture is found in a second split, counted without the code under test."
    first_split, n = {}, 0
    for case in cases.itertuples():
        keys = [('hash', case.hash)]
        if case.patient:
            keys.append(('patient', case.patient))
        for key in keys:
            n += first_split.setdefault(key, case.split) != case.split
    return n


def category_shares(cases):
    "The share of each category in each split."
    return pd.crosstab(cases['split'], cases['category'], normalize='index')


@pytest.mark.parametrize('seed', range(60))
def test_nothing_crosses(seed):
    cases = split_cases(table(seed), seed=seed)
    assert crossings(cases) == 0
    assert set(cases['split']) == {'train', 'valid', 'test'}
    assert cases.groupby(case_groups(cases))['split'].nunique().max() == 1


def test_crossings_would_be_seen():
    "The count above is no formality: a split by image, or by patient alone, does leak on these tables."
    by_image = by_patient = 0
    for seed in range(20):
        cases = table(seed)
        random_split = np.random.default_rng(seed).choice(['train', 'valid', 'test'], len(cases))
        by_image += crossings(cases.assign(split=random_split))
        by_patient += crossings(split_cases(cases.drop(columns='hash'), seed=seed).assign(hash=cases['hash']))
    assert by_image > 0
    assert by_patient > 0


def test_chain_of_twins_stays_together():
    cases = table(1, twins=0, blank=0)
    first = cases.groupby('patient').head(1).index
    for row, next_row in zip(first[:5], first[1:6]):
        cases.loc[cases.index == next_row, 'hash'] = cases.loc[row, 'hash']
    for seed in range(20):
        drawn = split_cases(cases, seed=seed)
        chain = drawn['patient'].isin(drawn.loc[first[:6], 'patient'])
        assert drawn[chain]['split'].nunique() == 1


def test_shares_and_strata():
    cases = table(2, patients=300, twins=5)
    drawn = split_cases(cases, valid=0.15, test=0.3)
    share = drawn['split'].value_counts(normalize=True)
    assert abs(share['test'] - 0.3) < 0.01
    assert abs(share['valid'] - 0.15) < 0.01
    overall = drawn['category'].value_counts(normalize=True)
    assert (category_shares(drawn) - overall).abs().max(axis=None) < 0.04


@pytest.mark.parametrize('seed', range(10))
def test_nested(seed):
    cases = split_cases(table(seed, patients=60), seed=seed)
    inner = set()
    for fraction in FRACTIONS:
        drawn = draw_labelled(cases, fraction, seed)
        train = drawn[drawn['split'] == 'train']
        chosen = set(train.query('labelled')['case'])
        assert inner <= chosen
        assert len(chosen) >= max(1, fraction * len(train) - 1e-6)
        assert train.groupby(case_groups(train))['labelled'].nunique().max() == 1  # whole patients
        assert drawn.loc[drawn['split'] != 'train', 'labelled'].all()
        inner = chosen
    assert len(inner) == len(train)


@pytest.mark.parametrize('seed', range(10))
def test_other_seed_chooses_others(seed):
    cases = split_cases(table(seed, patients=60), seed=seed)
    chosen, others = (set(draw_labelled(cases, 0.2, s).query('labelled')['case']) for s in (seed, seed + 1))
    assert chosen != others


def test_rows_and_folder_do_not_matter():
    here = table(3, path='/one/place')
    there = table(3, path='another').sample(frac=1, random_state=0).reset_index(drop=True)
    here, there = (draw_labelled(split_cases(cases), 0.2).set_index('case') for cases in (here, there))
    columns = ['split', 'labelled']
    pd.testing.assert_frame_equal(here[columns].sort_index(), there[columns].sort_index())


def test_draw_is_fixed_for_good():
    "A published seed must mean the same split in later versions: these lists may not change."
    names = dict(case=[f'c{i}' for i in range(12)], patient=[f'p{i // 2}' for i in range(12)])
    cases = pd.DataFrame(names).assign(category='', split='', labelled=True)
    cases['mask'] = [('m.png',)] * 12
    drawn = draw_labelled(split_cases(cases, seed=0), 0.5, seed=0)
    patients = drawn.groupby('split')['patient'].unique().map(list).to_dict()
    assert patients == dict(test=['p1'], train=['p0', 'p2', 'p3', 'p5'], valid=['p4'])
    assert sorted(drawn.query("split == 'train' and labelled")['patient'].unique()) == ['p2', 'p3']


@pytest.mark.parametrize('patients', [1, 2])
def test_too_few_patients(patients):
    with pytest.raises(DataError, match=f'{patients} patient.*three are needed. Add patients'):
        split_cases(table(0, patients=patients, blank=0, twins=0))


def test_twins_can_make_too_few():
    cases = table(0, patients=3, blank=0, twins=0)
    cases['hash'] = 'same'
    with pytest.raises(DataError, match='three are needed'):
        split_cases(cases)


@pytest.mark.parametrize(
    'shares', [dict(test=0), dict(valid=0), dict(valid=0.5, test=0.5), dict(test=-0.1), dict(test=float('nan'))]
)
def test_shares_that_leave_nothing(shares):
    with pytest.raises(ConfigError, match='leave something to train on'):
        split_cases(table(), **shares)


@pytest.mark.parametrize('seed', range(10))
def test_unlabelled_images_are_for_training_only(seed):
    cases = table(seed, patients=40)
    missing = np.random.default_rng(seed).random(len(cases)) < 0.3
    cases['mask'] = [() if gone else mask for gone, mask in zip(missing, cases['mask'])]
    drawn = draw_labelled(split_cases(cases, seed=seed), 0.3, seed)
    assert not drawn['labelled'][missing].any()
    assert (drawn['split'][missing] == 'train').all()
    assert crossings(drawn) == 0


def test_no_masks_at_all():
    cases = table()
    cases['mask'] = [()] * len(cases)
    with pytest.raises(DataError, match='only 0 of .* have a mask for every image'):
        split_cases(cases)


def test_given_split_is_kept():
    given = split_cases(table(5))
    again = split_cases(given, seed=99, test=0.5)
    pd.testing.assert_series_equal(again['split'], given['split'])


def test_given_split_with_a_leak():
    cases = split_cases(table(5))
    has_several = cases[cases['patient'] != ''].groupby('patient').filter(lambda images: len(images) > 1)
    case = has_several.iloc[0]
    cases.loc[cases['case'] == case['case'], 'split'] = 'test' if case['split'] != 'test' else 'train'
    with pytest.raises(DataError, match=f"patient '{case['patient']}' is in .*{case['case']}"):
        split_cases(cases)


def test_given_split_with_a_gap():
    cases = split_cases(table(5))
    cases.loc[0, 'split'] = ''
    with pytest.raises(DataError, match='1 of .* cases have no split: 0-0'):
        split_cases(cases)


@pytest.mark.parametrize('role', ['valid', 'test'])
def test_no_mask_in_a_scored_role(role):
    cases = split_cases(table(4))
    row = cases.index[cases['split'] == role][0]
    cases.at[row, 'mask'] = ()
    with pytest.raises(DataError, match=f"case {cases['case'][row]} is in {role} but has no mask"):
        draw_labelled(cases, 0.5)


@pytest.mark.parametrize('fraction', [0, -0.1, 1.01, 10, '0.1', True, float('nan'), None])
def test_fractions_outside(fraction):
    with pytest.raises(ConfigError, match='label_fraction='):
        draw_labelled(split_cases(table()), fraction)


@pytest.fixture
def published(tmp_path):
    "The split of `table(6)`, and its file."
    cases = draw_labelled(split_cases(table(6)), 0.2, seed=3)
    path = tmp_path / 'splits' / 'x.csv'
    save_splits(cases, path)
    return cases, path


def test_published_split(published):
    cases, path = published
    loaded = load_splits(table(6).sample(frac=1, random_state=1), path).sort_index()
    columns = ['case', 'split', 'labelled']
    pd.testing.assert_frame_equal(loaded[columns], cases[columns])


def test_published_split_of_other_cases(published):
    path = published[1]
    with pytest.raises(DataError, match='does not have'):
        load_splits(table(6).iloc[1:], path)
    more = pd.concat([table(6), table(6).iloc[:1].assign(case='new')], ignore_index=True)
    with pytest.raises(DataError, match='says nothing about .* new'):
        load_splits(more, path)


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda rows: rows.assign(split='tets'), "Did you mean 'test'"),
        (lambda rows: rows.drop(columns='labelled'), 'no column labelled'),
        (lambda rows: pd.concat([rows, rows.iloc[:1]]), 'twice'),
        (lambda rows: rows.assign(labelled='yes'), 'Write True or False'),
        (lambda rows: rows.assign(split=np.resize(['train', 'valid', 'test'], len(rows))), 'is in'),
    ],
)
def test_edited_split_files(published, change, message):
    path = published[1]
    change(pd.read_csv(path, dtype=str)).to_csv(path, index=False)
    with pytest.raises(DataError, match=message):
        load_splits(table(6), path)


def test_split_file_labels_what_has_no_mask(tmp_path):
    path = tmp_path / 'x.csv'
    save_splits(draw_labelled(split_cases(table(6)), 1), path)
    bare = table(6)
    bare.at[0, 'mask'] = ()
    with pytest.raises(DataError, match='0-0 is labelled there but has no mask here'):
        load_splits(bare, path)


def test_split_file_that_does_not_exist(published, tmp_path):
    with pytest.raises(DataError, match='none.csv'):
        load_splits(published[0], tmp_path / 'none.csv')


# --- real data, where present ---


def hashed(name, tmp_path_factory, reader):
    path = find_data(name)
    if not path:
        pytest.skip(f'{name} is not here')
    from sabr.data.cache import build_cache

    return build_cache(reader(path), 32, tmp_path_factory.mktemp(name), progress=False)[0]


@pytest.fixture(scope='module')
def busi(tmp_path_factory):
    from sabr.data.readers import read_busi

    return hashed('busi', tmp_path_factory, read_busi)


def test_busi_twins_stay_together(busi):
    twins = busi[busi['hash'].duplicated(keep=False)]
    assert {'benign (433)', 'malignant (145)'} <= {case.split('/')[-1] for case in twins['case']}
    by_patient = 0
    for seed in range(25):
        assert crossings(split_cases(busi, seed=seed)) == 0
        by_patient += crossings(split_cases(busi.drop(columns='hash'), seed=seed).assign(hash=busi['hash']))
    assert by_patient > 0  # without the hashes the twins would be separated


def test_busi_has_room_for_250_test_images(busi):
    drawn = draw_labelled(split_cases(busi, test=0.33), 0.1)
    assert (drawn['split'] == 'test').sum() >= 250
    overall = drawn['category'].value_counts(normalize=True)
    assert (category_shares(drawn) - overall).abs().max(axis=None) < 0.02


def test_five_camus_patients(tmp_path_factory):
    from sabr.data.readers import read_camus

    cases = hashed('camus', tmp_path_factory, read_camus)
    if cases['patient'].nunique() != 5:
        pytest.skip('not the copy with five patients')
    drawn = split_cases(cases)
    assert drawn.groupby('split')['patient'].nunique().to_dict() == dict(test=1, train=3, valid=1)
