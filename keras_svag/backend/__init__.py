"""What differs between Keras's backends, and all of Keras's private names."""

from keras_svag.backend.batches import (
    arrays_of,
    dynamic_num_rows,
    even_number_of_rows,
    first_rows,
    halves,
    map_arrays,
    num_rows,
    without_optionals,
)
from keras_svag.backend.data import ArrayRows, are_arrays, batches_of
from keras_svag.backend.gradients import Gradients, one_sentence
from keras_svag.backend.model import (
    FitData,
    accumulated_batches,
    build_layers,
    build_training,
    call_in_training_mode,
    check_model,
    count_loss,
    data_of_fit,
    decayed_variables,
    epsilon_ratio,
    examples_in_loss,
    gradient_weights,
    has_batch_normalization,
    has_fixed_batch_size,
    has_regularizer,
    has_second_moments,
    inverse_root_second_moments,
    iterations,
    layers_of,
    learning_rate_schedule,
    names_of,
    overrides,
    training_loss,
)
from keras_svag.backend.pair_trainer import PairTrainer
from keras_svag.backend.state import (
    assign_replica_values,
    preserved_state,
    replica_values,
    replicas,
)
from keras_svag.backend.tensorflow import (
    Beside,
    FirstCall,
    PairProgram,
    Within,
    fetched,
    fewest_rows,
    innermost,
    preconditioned_pair,
)
from keras_svag.backend.workers import (
    MultiWorkerModel,
    has_several_workers,
    is_chief,
    is_deterministic,
)
from keras_svag.scaling.optimizers import without_loss_scale
