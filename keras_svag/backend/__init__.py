"""What differs between Keras's backends, and all of Keras's private names."""

import keras

from keras_svag.backend.batches import CANNOT_HALVE, arrays_of, map_arrays
from keras_svag.backend.data import ArrayRows, are_arrays, batches_of
from keras_svag.backend.model import (
    FitData,
    accumulated_batches,
    build_layers,
    build_training,
    call_in_training_mode,
    check_model,
    count_batches_anew,
    data_of_fit,
    decayed_variables,
    epsilon_ratio,
    examples_in_loss,
    gradient_weights,
    has_batch_normalization,
    has_fixed_batch_size,
    has_own_step,
    has_regularizer,
    has_second_moments,
    inverse_root_second_moments,
    iterations,
    layers_of,
    learning_rate_schedule,
    names_of,
    overrides,
    seeds_of,
    training_loss,
    with_values,
)
from keras_svag.backend.pairs import (
    fetched,
    preconditioned_pair,
    python_state_kept,
)
from keras_svag.backend.train_function import Beside, Feed, innermost
from keras_svag.scaling.optimizers import without_loss_scale

if keras.backend.backend() == "tensorflow":
    from keras_svag.backend.tensorflow import *  # noqa: F403
else:
    from keras_svag.backend.normalization import (
        BatchNormalization,
        GroupNormalization,
    )
    from keras_svag.backend.slices import (  # type: ignore[assignment]
        FirstCall,
        fewest_rows,
        first_rows,
        num_rows,
    )

if keras.backend.backend() == "jax":
    from keras_svag.backend.jax import *  # type: ignore[assignment] # noqa: F403
elif keras.backend.backend() == "torch":
    from keras_svag.backend.torch import *  # type: ignore[assignment] # noqa: F403
