import itertools
import tracemalloc

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import tree

from keras_svag.models.svag_model import SVAGModel
from keras_svag.probe import examples
from keras_svag.probe.examples import open_examples

MODEL = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def arrays(n=20):
    x = np.arange(3.0 * n, dtype="float32").reshape(n, 3)
    return {"x": x}, np.arange(n)


@pytest.mark.parametrize("passes", [1, 2, 5])
def test_data_set_gives_the_rows_of_the_arrays(monkeypatch, passes):
    indices = np.random.default_rng(0).integers(20, size=(5, 4))
    bytes_per_batch = (3 * 4 + 8) * 4
    monkeypatch.setattr(
        examples,
        "_BYTES_PER_PASS",
        {1: 2**30, 2: 3 * bytes_per_batch, 5: 1}[passes],
    )
    reads = []
    dataset = tf.data.Dataset.from_tensor_slices(arrays())
    opened = open_examples(dataset, MODEL)
    read = opened._read
    opened._read = lambda rows: reads.append(1) or read(rows)
    in_memory = open_examples(arrays(), MODEL)
    assert opened.num_examples == in_memory.num_examples == 20
    for from_data_set, from_arrays, rows in zip(
        opened.batches(indices),
        in_memory.batches(indices),
        indices,
        strict=True,
    ):
        for x, y in (from_data_set, from_arrays):
            np.testing.assert_array_equal(x["x"], arrays()[0]["x"][rows])
            np.testing.assert_array_equal(y, arrays()[1][rows])
            assert x["x"].dtype == "float32"
    assert len(reads) == passes


def test_tensors_and_missing_parts_are_taken():
    x = tf.reshape(tf.range(12.0), (4, 3))
    batch = next(
        open_examples((x, np.array([1, 2, 3, 4])), MODEL).batches([[3, 3]])
    )
    np.testing.assert_array_equal(batch[0], [[9, 10, 11]] * 2)
    np.testing.assert_array_equal(batch[1], [4, 4])
    assert next(open_examples((x, None), MODEL).batches([[0]]))[1] is None
    doubles = np.zeros((4, 3))
    assert next(open_examples((doubles,), MODEL).batches([[0]]))[0].dtype == (
        "float32"
    )


class Batches(keras.utils.PyDataset):
    """Reads the batches of arrays by index, and counts which."""

    def __init__(self, data, size=6):
        super().__init__()
        self.batches = list(
            tf.data.Dataset.from_tensor_slices(data).batch(size)
        )
        self.reads = []

    @property
    def num_batches(self):
        return len(self.batches)

    def __getitem__(self, index):
        self.reads.append(index)
        return self.batches[index]


class Loader:
    """Starts anew with every `iter`, like a DataLoader."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def slices(data):
    return tf.data.Dataset.from_tensor_slices(data)


def of_generator(data):
    dataset = slices(data).batch(7)
    spec = tree.map_structure(
        lambda s: tf.TensorSpec([None] * s.shape.rank, s.dtype),
        dataset.element_spec,
    )
    return tf.data.Dataset.from_generator(
        lambda: dataset.as_numpy_iterator(), output_signature=spec
    )


# Twenty examples each, in the order of the arrays.
KINDS = {
    "list": list,
    "tensors": lambda data: tree.map_structure(tf.constant, data),
    "examples": slices,
    "batches": lambda data: slices(data).batch(5),
    "short last batch": lambda data: slices(data).batch(6),
    "remainder dropped": lambda data: slices(data).batch(4, True),
    "unknown cardinality": lambda data: (
        slices(data).batch(6).filter(lambda *_: True)
    ),
    "filtered examples": lambda data: slices(data).filter(lambda *_: True),
    "from_generator": of_generator,
    "repeated": lambda data: slices(data).batch(20).repeat().take(1),
    "PyDataset": Batches,
    "generator function": lambda data: (
        lambda: (batch for batch in slices(data).batch(6).as_numpy_iterator())
    ),
    "iterable": lambda data: Loader(list(slices(data).batch(6))),
    "lists in a generator": lambda data: Loader(
        [list(batch) for batch in slices(data).batch(6).as_numpy_iterator()]
    ),
}


@pytest.mark.parametrize("bytes_per_pass", [1, 2**30])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_gives_the_rows_of_the_arrays(
    kind, bytes_per_pass, monkeypatch
):
    monkeypatch.setattr(examples, "_BYTES_PER_PASS", bytes_per_pass)
    indices = np.random.default_rng(0).integers(20, size=(5, 4))
    opened = open_examples(KINDS[kind](arrays()), MODEL)
    first = opened.first(8)
    assert opened.num_examples == 20
    batches = [*opened.batches(indices), first, opened.first(30)]
    for (x, y), rows in zip(
        batches, [*indices, np.arange(8), np.arange(20)], strict=True
    ):
        np.testing.assert_array_equal(x["x"], arrays()[0]["x"][rows])
        np.testing.assert_array_equal(y, arrays()[1][rows])
        assert x["x"].dtype == "float32"
        assert y.dtype == "int64"


@pytest.mark.parametrize("kind", ["array", "dict", *list(KINDS)[2:-1]])
def test_inputs_alone_are_taken(kind):
    for x in (arrays()[0]["x"], arrays()[0]):
        opened = open_examples(KINDS.get(kind, lambda data: data)(x), MODEL)
        assert opened.num_examples == 20
        batch = next(opened.batches([[3, 19]]))
        assert isinstance(batch, tuple) == (kind in ("array", "dict"))
        expected = arrays()[0]["x"][[3, 19]]
        np.testing.assert_array_equal(tree.flatten(batch)[0], expected)


def test_counting_waits_until_the_number_is_asked_for():
    for kind in ("unknown cardinality", "generator function", "PyDataset"):
        opened = open_examples(KINDS[kind](arrays()), MODEL)
        opened.first(2)
        assert not opened.is_counted
        assert opened.num_examples == 20
        assert opened.is_counted
        assert open_examples(opened, MODEL) is opened
    for kind in ("examples", "remainder dropped", "list"):
        assert open_examples(KINDS[kind](arrays()), MODEL).is_counted


def test_only_what_was_drawn_is_read_from_a_py_dataset():
    data = Batches(arrays())
    opened = open_examples(data, MODEL)
    opened.first(2)
    assert data.reads == [0]
    assert opened.num_examples == 20
    data.reads.clear()
    list(opened.batches([np.array([13, 19, 13])]))
    assert sorted(set(data.reads)) == [0, 2, 3]  # The first for its size.


def test_a_stream_keeps_only_what_was_drawn():
    # 16 batches of 8 MB, one after the other, of which 4 rows are drawn.
    def batches():
        for index in range(16):
            yield np.full((1000, 2000), index, "float32")

    model = keras.Sequential([keras.Input((2000,)), keras.layers.Dense(1)])
    spec = tf.TensorSpec((None, 2000))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=spec)
    rows = np.array([0, 4001, 9999, 15999])
    for data in (batches, dataset):
        opened = open_examples(data, model)
        assert opened.num_examples == 16_000
        assert list(opened._read(rows)) == list(rows)
        tracemalloc.start()
        (batch,) = opened.batches([rows])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        np.testing.assert_array_equal(batch[:, 0], [0, 4, 9, 15])
        assert peak < 4 * 8e6


def subclassed():
    class Model(keras.Model):
        def call(self, x):
            return x

    return Model()


def functional(*shape):
    return keras.Sequential([keras.Input(shape), keras.layers.Flatten()])


@pytest.mark.parametrize(
    "model, shapes, batched",
    [
        # The ranks of the model's inputs say it.
        (functional(3), [(3,), (1,)], False),
        (functional(3), [(4, 3), (4, 1)], True),
        (functional(3), [(3, 3), (3, 3)], True),
        (functional(3), [(3,), (3,)], False),
        (functional(None, 2), [(5, 2), (5,)], False),
        (functional(4, 4), [(4, 4), ()], False),
        (functional(4, 4), [(4, 4, 4), (4,)], True),
        # Keras adds a last axis, or drops it.
        (functional(1), [(), ()], False),
        (functional(1), [(8,), (8,)], True),
        (functional(1), [(1,), (1,)], False),
        (functional(4, 4), [(8, 4, 4, 1), (8,)], True),
        (functional(4, 4), [(4, 4, 1), ()], False),
        # Nothing says it but the data: as with fit, if it can be.
        (subclassed(), [(3,), (3,)], True),
        (subclassed(), [(3,), (1,)], False),
        (subclassed(), [(3,), ()], False),
        (subclassed(), [(None, 3), (None,)], True),
        (subclassed(), [(None, 3), (1,)], False),
        (SVAGModel(functional(3)), [(3,), (3,)], False),
    ],
)
def test_batches_are_told_from_examples(model, shapes, batched):
    element = tuple(tf.TensorSpec(shape) for shape in shapes)
    assert examples._are_batches(element, model) is batched


def test_inputs_are_matched_by_their_names():
    inputs = [keras.Input((2, 2), name="b"), keras.Input((2,), name="a")]
    model = keras.Model(inputs, keras.layers.Flatten()(inputs[0]))
    # By their shapes alone an example could be a batch of two.
    shapes = {"a": (6, 2), "b": (6, 2, 2), "other": (6, 2)}
    x = {name: np.zeros(shape) for name, shape in shapes.items()}
    for dataset in (slices(x), slices(x).batch(2), slices(x).batch(6, True)):
        opened = open_examples(dataset, model)
        assert opened.first(5)["b"].shape == (5, 2, 2)
    assert open_examples(x, model).num_examples == 6


def test_what_cannot_be_drawn_from_is_refused():
    dataset = slices(arrays())
    ragged = tf.ragged.constant([[1.0], [1.0, 2.0]])
    endless = Batches(arrays())
    type(endless).num_batches, known = None, type(endless).num_batches
    for bad, sentence in (
        (dataset.repeat(), "must be finite"),
        (dataset.batch(4).repeat(), "must be finite"),
        (endless, "must be finite"),
        (dataset.take(0), "must have examples"),
        (dataset.filter(lambda x, y: False), "must have examples"),
        (lambda: iter(()), "must have examples"),
        ((np.zeros((4, 3)), np.zeros(5)), "the same number of rows"),
        ((np.zeros((4, 3)), np.float32(1)), "the same number of rows"),
        ((np.zeros((4, 5, 3)), np.zeros(4)), "as many axes"),
        (dataset.batch(4).batch(2), "as many axes"),
        (lambda: iter([np.zeros((4, 5, 3))]), "as many axes"),
        (lambda: iter([(np.zeros(3), 1.0)]), "yield batches"),
        (lambda: iter([(np.zeros((2, 3)), np.zeros(3))]), "yield batches"),
        (ragged, "dense tensors, got RaggedTensor;"),
        ((np.zeros((2, 3)), ragged), "dense tensors, got RaggedTensor;"),
        (slices(ragged), "dense tensors, got RaggedTensorSpec;"),
        (tf.sparse.eye(3), "dense tensors, got SparseTensor;"),
        (lambda: iter([tf.sparse.eye(3)]), "dense tensors"),
    ):
        with pytest.raises(ValueError, match=sentence) as raised:
            open_examples(bad, MODEL).num_examples  # noqa: B018
        assert "\n" not in str(raised.value)
    type(endless).num_batches = known
    for bad, sentence in (
        ((batch for batch in [np.zeros((2, 3))]), "more than once.*generator"),
        (iter(dataset), "more than once.*OwnedIterator"),
        (lambda: None, "one that returns NoneType"),
    ):
        with pytest.raises(TypeError, match=sentence):
            open_examples(bad, MODEL).num_examples  # noqa: B018


def test_data_that_end_earlier_than_before_are_refused():
    lengths = iter([20, 12])
    data = KINDS["generator function"](arrays())
    dataset = tf.data.Dataset.from_generator(
        lambda: range(next(lengths)),
        output_signature=tf.TensorSpec((), "int64"),
    ).map(lambda index: tf.repeat(float(index), 3))
    short = iter([4, 1])
    shrinking = Batches(arrays())
    batches = shrinking.batches
    for source in (
        dataset,
        lambda: itertools.islice(data(), next(short)),
        shrinking,
    ):
        opened = open_examples(source, MODEL)
        assert opened.num_examples == 20
        if source is shrinking:
            source.batches = [({"x": x["x"][:1]}, y[:1]) for x, y in batches]
        with pytest.raises(ValueError, match="fewer than the 20"):
            opened._bytes = 20
            next(opened.batches([[13, 0]]))


def test_examples_of_other_shapes_make_no_batch():
    model = keras.Sequential([keras.Input((None,)), keras.layers.Lambda(abs)])
    rows = [np.zeros((2, 3)), np.zeros((2, 5))]
    opened = open_examples(lambda: iter(rows), model)
    assert next(opened.batches([[0, 1]])).shape == (2, 3)
    with pytest.raises(ValueError, match=r"one shape, got \(3,\) and \(5,\)"):
        next(opened.batches([[0, 2]]))


def test_counting_what_may_have_no_end_warns(monkeypatch):
    monkeypatch.setattr(examples, "_MANY_EXAMPLES", 19)
    with pytest.warns(UserWarning, match="goes on after 20"):
        opened = open_examples(KINDS["from_generator"](arrays()), MODEL)
        assert opened.num_examples == 20
